"""What every peer exchanges with our echo server: the same text, the same 200 kB, the same goodbye."""

from __future__ import annotations

import random

# One character of each UTF-8 length, so that a peer which counts characters for bytes is found out.
TEXT = "hello \u00e9 \u4e16 \U0001f30d"
# Longer than any socket buffer's default, and every byte value in it.
BLOB = random.Random(6455).randbytes(200_000)
FRAGMENTS = ["one ", "", "tw\u00f6 ", "three"]
CLOSE_CODE = 4001
CLOSE_REASON = "seen \u00e9nough"
