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


class Heard(logging.Handler):
    """What is logged by a thread of the server."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def main() -> None:
    """Play it; the first rule that does not hold is raised."""
    # Before the engine is imported: what it imports of itself has to be the shim's.
    shim = Shim()
    from raw import RawClient

    import unlimitedws

    engine = [module for name, module in sys.modules.items() if name.startswith("_uws.")]
    shim.watch({module.__file__ for module in engine if module.__file__})
    heard = Heard()
    logging.getLogger("unlimitedws").addHandler(heard)
    server = unlimitedws.Server("127.0.0.1:0", pool=(4, 8))
    server.on_message = lambda conn, message: conn.send(message)
    with server, RawClient(server.local_addr.port) as client:
        # One more is asked for when there is something to call: by then the connection has the memory that it needs.
        shim.arm("mmap", errno.ENOMEM, 0, 1)
        shim.on()
        client.send_frame(1, b"the first")
        assert client.recv_message() == "the first"
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
    print(heard.records[0].getMessage())


if __name__ == "__main__":
    main()
