"""How many connections a machine can hold, what limits it, and what would lift that.

`reading` makes `facts` of a machine, `rules` makes findings of facts, `remedies` writes out what would help, `applying`
does it, `showing` shows it all. `unlimitedws.commands.doctor` puts them together; docs/tuning.md is the manual.
"""
