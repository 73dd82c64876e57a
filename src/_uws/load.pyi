"""F6. The load generator's engine, as `unlimitedws.loadgen` uses it. Nobody else does.

A `Plan` says what is to be done; each thread has a `Load`, runs it, and is told by others which phase is to be next.
Durations are nanoseconds here where a name does not say otherwise.
"""

from typing import final

from typing_extensions import Self

RAMP: int
WARM: int
MEASURE: int
DRAIN: int
CLOSE: int
END: int
STAMP_BYTES: int
KEY_BYTES: int

@final
class Plan:
    """What all threads have in common. Not changed while one runs; keep it no longer than its loads need."""

    def __new__(
        cls,
        mode: str,
        *,
        threads: int,
        request: bytes,
        key_at: int,
        targets: list[bytes],
        sources: list[bytes],
        payloads: bytes,
        size: int,
        text: bool,
        pipelining: int,
        rate: float,
        connect_rate: float,
        connecting: int,
        publishers: int,
        others_only: bool,
        protocols: bytes,
        any_reply: bool,
        abort: bool,
        greeting: int,
        max_head_bytes: int,
        connect_timeout: float,
        handshake_timeout: float,
        reply_timeout: float,
        close_timeout: float,
        run_id: int,
    ) -> Self:
        """
        Args:
            mode: ``"echo"``, ``"idle"``, ``"handshakes"`` or ``"broadcast"``.
            request: The whole request; at key_at are 24 bytes for the key.
            targets, sources: Each a ``struct sockaddr``. No source: the kernel chooses.
            payloads: A power of two of messages, ``size`` bytes each, that are sent in turn.
            rate: Messages per second, of all threads together; 0: as fast as replies come.
            connect_rate: The same of connections; 0: as fast as they come to be.
            connecting: Handshakes under way at once, of each thread.
            protocols: The value of Sec-WebSocket-Protocol in the request; empty if there is none.
            connect_timeout, handshake_timeout, reply_timeout, close_timeout: Seconds.
            run_id: 24 bits that tell this run's publications from others.

        Raises:
            ValueError: The arguments do not fit together.
        """

@final
class Load:
    """One thread's share."""

    def __new__(cls, plan: Plan, index: int, connections: int, first: int) -> Self:
        """
        Args:
            index: Of the thread. The first one has all publishers.
            first: Number of its first connection among those of all threads.
        """

    def run(self, private_table: bool = False, required: bool = True) -> None:
        """Do it, without the GIL, until `END` is ordered.

        Args:
            private_table: Give this thread descriptors of its own, as many as RLIMIT_NOFILE allows. Not in a process's
                only thread: it would lose those that it has.
            required: Whether it is an error if the kernel refuses that table.

        Raises:
            OSError: The kernel refuses the table or an epoll instance.
            RuntimeError: It has run.
        """

    def order(self, phase: int) -> None:
        """Say which phase is to be next, from any thread. It begins within 20 ms; phases may be left out.

        Raises:
            ValueError: It is none, or an earlier one than that which was ordered last.
        """

    def shown(self) -> dict[str, int]:
        """How far it is, from any thread; as of its last turn. ``phase`` is not later than the counts are."""

    def figures(self) -> dict[str, object]:
        """All counts, once `run` has returned."""

    def latency(self) -> tuple[int, list[tuple[int, int]]]:
        """Longest latency, and (bucket, count) of all; once `run` has returned."""

    def opening(self) -> tuple[int, list[tuple[int, int]]]:
        """The same of handshakes, from ``connect()`` to the response's end."""
