"""The loop's lock and the GIL, taken in two orders by two threads, would stop the whole process.

In a process of its own: a deadlock that holds the GIL leaves nobody in the test's process to tell of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOAD_S = 3.0
TIMEOUT_S = 30.0

# Computing threads fight for the GIL while the poller, its stand-in and the workers fight for the lock. Each
# message makes a Conn and drops it, and dropping it takes the lock with the GIL held. With two threads and 50
# connections the deadlock that was once here showed in one run of six, with as many as these in every run.
SCRIPT = """
import subprocess, sys, threading
import rig, unlimitedws
from unlimitedws import wsutil

sys.setswitchinterval(1e-6)
server = unlimitedws.DefaultServer("127.0.0.1:0")

@server.on_read
def echo(conn):
    msg, op = wsutil.read_client_data(conn)
    wsutil.write_server_message(conn, op, msg)

done = False

def compute():
    while not done:
        pass

with server:
    threads = [threading.Thread(target=compute) for _ in range(10)]
    for thread in threads:
        thread.start()
    tool = [rig.native_tool("wsload"), "--connections", "300", "--seconds", sys.argv[1]]
    port = ["--port", str(server.local_addr.port)]
    code = subprocess.run([*tool, *port], stdout=subprocess.DEVNULL).returncode
    done = True
    for thread in threads:
        thread.join()
sys.exit(code)
"""


def test_nobody_waits_for_the_gil_with_the_loops_lock() -> None:
    path = [str(ROOT / name) for name in ("src", "bench")]
    process = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{SCRIPT}", str(LOAD_S)],
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_S,
    )
    assert (process.returncode, process.stderr) == (0, b"")
