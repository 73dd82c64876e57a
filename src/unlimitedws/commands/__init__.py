"""The commands of ``unlimitedws``, one module each.

A module has ``add_to(subparsers)``, which adds its parser and names, with ``set_defaults(run=...)``, the function that
takes the parsed arguments and returns the exit status. ``unlimitedws.cli`` composes them. Nobody else imports them, so
what a command needs beyond the library (an optional extra) is imported when it runs.
"""
