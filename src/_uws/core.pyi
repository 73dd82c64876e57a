"""F6. The types of the engine's top floor: Loop. Only `unlimitedws` uses it."""

from collections.abc import Callable
from typing import final

from typing_extensions import Self

from _uws.conn import Conn
from _uws.dispatch import Dispatch
from unlimitedws.address import Address

def seats_of_own() -> int:
    """Return how many connections a loop has room for that has a descriptor table of its own (private_fds).

    That is RLIMIT_NOFILE, as it is now, less what the engine needs there itself.
    """

@final
class Crowd:
    """The connections of several loops, counted together: `max_connections` is then a limit on all of them."""

@final
class Loop(Dispatch):
    """One epoll instance, its connections, and the threads that serve them.

    A loop runs once. Its life: made, `listen`, `run` in one thread (more are asked for through spawn),
    `shut`, every `run` returns, the caller closes the listening sockets.
    """

    def __new__(
        cls,
        settings: dict[str, int],
        spawn: Callable[[], object],
        failed: Callable[[Conn | None, BaseException, str], object],
        page: bytes | None,
        crowd: Crowd | None = None,
    ) -> Self:
        """Make a loop that listens nowhere yet.

        Args:
            settings: Every one of these names, none other (KeyError). Times fit a signed 64-bit integer, the
                rest 31 bits; `Options` has checked them.

                ========================  ====================================================================
                max_message_bytes         a longer message closes its connection with 1009
                max_stream_bytes          the same, for a message that is streamed (63 bits)
                streaming                 1: on_read is called as soon as a message begins
                max_fragments             a message of more fragments closes its connection with 1008
                max_header_bytes          request head; more is refused with 431
                max_header_fields         header fields of the request; more are refused with 431
                max_line_bytes            one line of the request head; more is 414, or 431 in a field
                handshake_timeout_ms      from accept to the end of the request head; then 408
                close_timeout_ms          from our close frame to the peer's; then the connection is dropped
                max_buffered_bytes        send buffer of one connection
                high_water_bytes          above it Sent.HIGH, once the kernel was asked
                low_water_bytes           down to it on_drain
                overflow                  a full one: 0 the sender waits, 1 close, 2 drop newest, 3 drop oldest
                max_buffered_total_bytes  of all; then those are dropped that got on least (63 bits)
                max_inbox_bytes           undelivered messages of one connection, then reading it pauses
                max_inbox_messages        the same, counted
                request_timeout_ms        for Python to answer a request; then 503
                ping_interval_ms          silence after which the peer is pinged; 0 here and below: never
                ping_timeout_ms           from our ping to the next byte; then the connection is dropped
                send_timeout_ms           queued bytes without progress; then the connection is dropped
                idle_timeout_ms           without a message either way; then 1001
                max_lifetime_ms           of a connection, +-10 %; then 1001
                max_pings_per_second      of one connection that are all answered, 255 at most; 0: no limit
                max_incomplete_total_bytes    incomplete messages of all; then the stalest are closed with 1013
                max_inbox_total_bytes     undelivered messages of all; then those that have some pause
                max_connections           0: as many as there are descriptors; more are refused with 503
                schedule_timeout_us       how long the poller may be away running callbacks before the watchdog
                                          polls in its place, and wakes another runner where there is one
                cooldown_us               how long accepting rests when there is no descriptor, or no room in
                                          the queue of jobs
                io_timeout_us             how long a call of a callback waits; 0: without limit
                runners                   1: callbacks run inline; n: on up to n runner threads
                proxy_protocol            1: every connection begins with a PROXY header, from `set_proxies`' networks
                private_fds               1: its descriptors are in a table of its own, which limits max_connections
                compression               1: permessage-deflate is agreed on with clients that offer it
                compression_level         -1 to 9
                compression_mem_level     1 to 9
                compression_server_takeover   1: our contexts are kept from message to message
                compression_client_takeover   ... the clients' are
                compression_server_bits   the largest windows, 9 to 15
                compression_client_bits
                compression_threshold     shorter messages are sent as they are
                jobs                      connections that may wait for a runner; 0 with one runner
                ========================  ====================================================================

            spawn: Called by a runner that holds the GIL and none of the loop's locks, when one more runner
                should be started. It starts a thread that calls `run`, and returns; or it raises, and the
                loop goes on with the runners it has and may ask again later.
            failed: A callback of the connection raised. Called with the connection, the exception (any
                BaseException) and the hook's name, before the loop closes the connection with 1011: so
                `is_open` tells whether the peer had gone already. None, and a MemoryError: there was no memory
                for a Conn, or an Exchange, to call the hook with. Never called with a lock held. Must not raise.
            page: Body of the HTML page that is served for an ordinary `GET /`; None: 426, as for other paths.
            crowd: The same for all loops of a server; None: it has only this one.
        """

    @property
    def connections(self) -> int:
        """Open WebSocket connections: upgraded, close handshake not ended. Thread: any."""

    @property
    def staffed(self) -> bool:
        """Whether at least one thread is in `run`. Thread: any."""

    def listen(self, fd: int, shared: bool = False, in_turn: bool = False) -> None:
        """Accept from a bound, listening, non-blocking socket. The caller closes it when `run` has returned.

        Args:
            fd: The socket's descriptor.
            shared: It was inherited, and other programs accept from it too. `drain` leaves the newcomers to them; those
                of a socket that is not shared are told 503.
            in_turn: Other loops of the same server accept from it too, in this process or in others: of those that
                wait one is woken, each in its turn. The same for all sockets of a loop.

        Raises:
            OSError: epoll does not take it.
            ValueError: There are 16 already; or the loop runs, with a table of its own that this one is not in.

        Thread: any, before `run`.
        """

    def accept_no_more(self) -> None:
        """Accept no more: who comes is for the other loops of the server, in other processes. Thread: any."""

    def look(self) -> None:
        """Look whether somebody waits at the listeners: another process that had been told of them has ended.

        Thread: any.
        """

    def set_subprotocols(self, names: list[bytes]) -> None:
        """Subprotocols, the one we like best first, for requests that no on_request is asked about: the first of ours
        that a client offers is agreed on.

        Args:
            names: At most 32 tokens of 1 to 255 bytes, checked by the caller.

        Raises:
            ValueError: There are more than 32.

        Thread: any, at any time.
        """

    @property
    def client(self) -> Callable[[Address, str], Address] | None:
        """As given to `set_proxies`."""

    def set_proxies(
        self, networks: list[tuple[int, int, bytes]], field: bytes, client: Callable[[Address, str], Address]
    ) -> None:
        """Say which proxies are believed, and how they name their clients.

        Args:
            networks: At most 64 of (kind, bits, address): kind 4 with 4 bytes, 6 with 16, in network byte order, the
                first bits of which count; 1 with 0 bits and no bytes is everybody on a Unix socket.
            field: Name of a header field, in lower case, of letters and "-", at most 32 bytes.
            client: Called when a connection's `remote_addr` is asked for whose peer is one of the proxies, and
                whose request had the field: with the peer's address and the values of all its lines, joined with
                ", ". Of more than 1024 bytes it gets the right end, behind a zero byte. Returns the client's
                address.

        Raises:
            ValueError: There are more than 64, or one of them is not a network.

        Thread: any, before `run`.
        """

    def set_time(self, name: str, value: int) -> None:
        """Change one of the times in microseconds: schedule_timeout_us, cooldown_us, io_timeout_us.

        Raises:
            ValueError: There is no such time, or it is negative.

        Thread: any, at any time; a wait that is under way keeps its old limit.
        """

    def run(self) -> None:
        """Be a runner: poll and run callbacks until the loop has stopped.

        Exceptions of callbacks go to failed and do not come out here. Once the loop has stopped it returns at
        once.

        Raises:
            OSError: The kernel refused what the loop cannot do without.
            MemoryError: There was none for this runner. Others that the loop has go on.

        Thread: any number of threads at a time; the first one without being asked for, the others by spawn.
        """

    def enter(self) -> tuple[int, int]:
        """Be the loop's guest, instead of its runners: an event loop of others, asyncio's say, drives it from now on.

        Returns:
            Two descriptors to be watched beside the event loop's own. When one of them is readable it is time to
            `visit`.

        Raises:
            RuntimeError: The loop runs already, or has run; or its descriptors are in another table.
            OSError, MemoryError: The kernel, or the allocator, refuses what is needed.

        Thread: any; from then on the guest's.
        """

    def visit(self) -> int:
        """Do all that there is to do, run the callbacks it is for, and return without having waited.

        While the guest stays away, the watchdog does what can be done without Python.

        Returns:
            0: The loop has stopped: stop watching the descriptors, then `leave`. 1: visit again, after everybody
            whom the callbacks woke has had a turn. 2: when a descriptor is readable.

        Raises:
            RuntimeError: Called by one of its own callbacks, or where there is no guest.

        Thread: the guest's.
        """

    def leave(self) -> None:
        """End what `enter` began, after `visit` has returned 0: the descriptors are closed, the watchdog ends.

        Raises:
            RuntimeError: It has not returned that.

        Thread: the guest's.
        """

    def shut(self, code: int, reason: str, timeout_ms: int) -> None:
        """Stop: accept no more, flush what is queued, close every connection, then let `run` return.

        Returns at once. `on_close` runs for every connection. May be called before `run`, and again: the
        earliest deadline counts. Once the loop has stopped it does nothing.

        Args:
            code: Close code that the peers get, such as 1001 (RFC 6455, section 7.4.1).
            reason: At most 123 bytes as UTF-8.
            timeout_ms: After that the connections which are left are dropped; 0: at once.

        Thread: any, callbacks and signal handlers included.
        """

    def drain(self, over_ms: int, code: int, jitter: bool, timeout_ms: int) -> None:
        """Let nobody in any more, have the open connections leave one after the other, then stop as `shut` does.

        Returns at once; the engine's own timers do it, whether Python is busy or not. Upgrades are refused with 503
        from now on, those that on_request is being asked about too; plain GETs are answered still. Called again it
        brings the end forward, or does nothing. While the loop stops it does nothing.

        Args:
            over_ms: Time over which they leave; 31 bits.
            code: Close code that they get.
            jitter: In random order, each at a random moment of its share of the time; False: evenly to the tick.
            timeout_ms: As of `shut`, from when the last has left or the time is over.

        Raises:
            ValueError: A time is out of range.

        Thread: any, callbacks and signal handlers included.
        """

    @property
    def draining(self) -> bool:
        """Whether `drain` has been called. Thread: any."""

    def memory(self) -> dict[str, int]:
        """Where the loop's memory is, in bytes: see `unlimitedws.memory.Memory`; nothing in a child process.

        It walks over the slots, some 5 ns for one that is idle, and asks the kernel about each mapping; the loop's lock
        is let go of every few thousand slots, the GIL for all of it.

        Raises:
            MemoryError: There is none to note the mappings in.

        Thread: any.
        """

    def counters(self) -> dict[str, int]:
        """Figures of the engine, by name, for tests and for people who look for a leak. Thread: any."""
