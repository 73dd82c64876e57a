"""Another server of this directory, and beside it a thread that keeps the interpreter to itself.

    python company.py computes|holds SERVER.py

computes: pure Python, without pause. holds: for each line with a number of seconds on stdin it says "holding" and
calls a function of C that does not let go of the GIL, as extensions do that were not written for threads.
"""

import ctypes
import logging
import runpy
import sys
import threading
from pathlib import Path


def computes() -> None:
    x = 1
    while True:
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF


def holds() -> None:
    # PyDLL, unlike CDLL, keeps the GIL during the call.
    sleep_us = ctypes.PyDLL(None).usleep
    for line in sys.stdin:
        # The print has to be out before: it takes the GIL, too.
        print("holding", flush=True)
        sleep_us(ctypes.c_uint(int(float(line) * 1e6)))


company, script = sys.argv[1:]
# Clients that were lost leave without a close frame: websockets logs that for each of them.
logging.getLogger("websockets").setLevel(logging.CRITICAL)
threading.Thread(target={"computes": computes, "holds": holds}[company], daemon=True).start()
runpy.run_path(str(Path(__file__).with_name(script)), run_name="__main__")
