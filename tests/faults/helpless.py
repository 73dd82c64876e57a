"""A server with a pool, and no memory for one more thread of it: it has to go on with those that it has.

Run with the shim preloaded by test_failing_calls.py; ends with 0 and a line of its log.
"""

from __future__ import annotations

import errno
import logging
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "faults"), str(ROOT / "tests"), str(ROOT / "src")]

from shim import Shim  # noqa: E402 (it is where we have just said)

PATIENCE_S = 10.0
ATTEMPTS = 10


class Heard(logging.Handler):
    """What is logged by a thread of the server."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def play(shim: Shim, heard: Heard) -> bool:
    """Play it; the first rule that does not hold is raised. False: it was not a thread that had no memory."""
    from raw import CLOSE, RawClient

    import unlimitedws

    server = unlimitedws.Server("127.0.0.1:0", pool=(4, 8))
    server.on_message = lambda conn, message: conn.send(message)
    with server, RawClient(server.local_addr.port) as client:
        # One more is asked for when there is something to call: by then the connection has the memory that it needs.
        shim.arm("mmap", errno.ENOMEM, 0, 1)
        shim.on()
        client.send_frame(1, b"the first")
        answer = client.recv_frame()
        if answer.opcode == CLOSE:
            # Unless whoever polls was late: the message has an inbox to wait in then, which had no memory.
            assert answer.payload == b"\x03\xf3", answer
            shim.off()
            return False
        assert answer.payload == b"the first", answer
        deadline = time.monotonic() + PATIENCE_S
        while not heard.records:
            assert time.monotonic() < deadline, "nobody has said that a thread had no memory"
            time.sleep(0.001)
        shim.off()
        assert [record.levelno for record in heard.records] == [logging.WARNING], heard.records
        assert server.counters()["runners"] == 1
        # By now there is memory again, and later on it is asked for once more.
        while server.counters()["runners"] == 1:
            assert time.monotonic() < deadline, "nobody is asked to help any more"
            client.send_frame(1, b"again")
            assert client.recv_message() == "again"
        client.close_cleanly()
    return True


def main() -> None:
    """Play it until it was a thread that had no memory."""
    # Before the engine is imported: what it imports of itself has to be the shim's.
    shim = Shim()
    import unlimitedws  # noqa: F401 (imported for what it imports)

    engine = [module for name, module in sys.modules.items() if name.startswith("_uws.")]
    shim.watch({module.__file__ for module in engine if module.__file__})
    heard = Heard()
    logging.getLogger("unlimitedws").addHandler(heard)
    for _ in range(ATTEMPTS):
        if play(shim, heard):
            print(heard.records[0].getMessage())
            return
        heard.records.clear()
    raise AssertionError(f"{ATTEMPTS} times it was a message that had no memory")


if __name__ == "__main__":
    main()
