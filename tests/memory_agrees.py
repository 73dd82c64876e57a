"""Whether what a server says of its memory is what the kernel says of it. For tests of any size."""

from __future__ import annotations

from typing import NamedTuple

from live import ServerProcess

from unlimitedws import Memory


class Growth(NamedTuple):
    """What came between two looks, in bytes: by the engine's account and by the kernel's."""

    engine: int
    process: int


def memory_of(server: ServerProcess) -> Memory:
    """Ask a server in a process of its own."""
    return Memory(**server.ask("__import__('dataclasses').asdict(server.memory())"))


def growth(before: Memory, after: Memory) -> Growth:
    return Growth(after.total_bytes - before.total_bytes, after.rss_bytes - before.rss_bytes)


def assert_they_agree(before: Memory, after: Memory, slack_bytes: int = 0) -> None:
    """Assert that the engine's growth is the process's, within 5 %.

    slack_bytes: What else may have come, or gone, in the interpreter: some pages always do.
    """
    engine, process = growth(before, after)
    report = f"the engine's account says {engine:,} bytes, the kernel's {process:,}\n{before}\n\n{after}"
    assert abs(engine - process) <= 0.05 * process + slack_bytes, report
