"""Fuzz targets: inputs that a coverage-guided fuzzer makes, put to the engine's floors and to oracles.

`make fuzz` (tools/fuzz.py) runs them; test_fuzz.py puts what is kept of their inputs to them, without a fuzzer.
"""
