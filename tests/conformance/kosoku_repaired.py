"""kosoku's command line, with its cases of compression put right.

They hash each message that comes back. kosoku 0.1.0 hands them one that was not compressed as a str (of a
binary one each character is a byte), and fails in hashing it; a server need not compress what gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kosoku import _cli, cases

OnMessage = Callable[[Any, Any, bool], None]


def takes_bytes(on_message: OnMessage) -> OnMessage:
    def repaired(self: Any, msg: str | bytes, binary: bool) -> None:
        data = msg.encode("latin-1" if binary else "utf-8") if isinstance(msg, str) else msg
        on_message(self, data, binary)

    return repaired


for number, case in cases.CASES.items():
    if number.split(".")[0] in ("12", "13"):
        case.onMessage = takes_bytes(case.onMessage)

if __name__ == "__main__":
    _cli.main()
