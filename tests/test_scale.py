"""A hundred thousand connections that live, in one process: each has its handshake and its messages there and back.

Asserted is memory. The times are printed, and anybody's who measures: `make million` has them for ten times as many.
"""

from __future__ import annotations

import os
import shutil
import sysconfig

import million
import pytest
import rig

pytestmark = [
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler"),
    pytest.mark.skipif(million.seats() < 2_000, reason="RLIMIT_NOFILE is too low: there are at most 64 loops"),
]

CONNECTIONS = 100_000
MB = 1_000_000
# The whole process: the interpreter, the library, the loops, and all connections. 25.6 MB are measured with all of them
# and 26.2 after two messages on each, of which 19.5 are there before: CPython 3.11, its library and the engine's code;
# with CPython 3.14 it is 27.3, of which 21.7 are. A free-threaded 3.13 has 26.5 before, and 45.1 in the end: without a
# GIL a slot owns its Conn, from the first callback on.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
MOST_BYTES = (48 if FREE_THREADED else 28) * MB
# What one connection adds: its slot of 56 bytes, and what there is of tables beside it.
MOST_BYTES_EACH = 64
# ... after a message: arenas that are kept for the next one are no connection's, but are counted here.
MOST_BYTES_EACH_AFTERWARDS = 200 if FREE_THREADED else 70


def test_a_hundred_thousand_connections_echo_in_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    if million.affordable(CONNECTIONS) < CONNECTIONS:
        pytest.skip("too little memory for both ends of so many connections")
    with capsys.disabled():
        print()
        rig.print_facts([rig.OURS_INLINE])
        figures = million.run(CONNECTIONS)
        million.print_process(figures)
    assert figures.held.resident <= MOST_BYTES
    assert figures.bytes_each(figures.held) <= MOST_BYTES_EACH
    for memory in figures.echoed:
        assert memory.resident <= MOST_BYTES
        assert figures.bytes_each(memory) <= MOST_BYTES_EACH_AFTERWARDS
    # All of it came and went through the engine, and nothing of it has stayed.
    assert figures.counters["slab_used_bytes"] == 0
    assert figures.counters["turned_away"] == 0
