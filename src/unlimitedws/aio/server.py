"""The server of `unlimitedws.aio`: a task for each connection, over one engine loop that the event loop drives.

The names and their meaning are those of `websockets`; docs/asyncio.md has the differences.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from _uws.conn import Conn, check_close

from .. import request as plain
from .. import server as threaded
from ..door import Door, Steps, check_offered
from ..entrance import check_auth, check_subprotocols
from ..errors import ConnectionClosed
from ..proxies import Proxies
from ..serving import Serving
from .arguments import (
    NO_LIMIT,
    AioKeywords,
    Origins,
    address_of,
    check_options,
    checked_origins,
    compression_of,
    marks_of,
    translated,
)
from .connection import ServerConnection
from .guest import Guest, LoopHelpers
from .http import Headers, Request, Response, encodable, extra_fields

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

__all__ = ["Handler", "ProcessRequest", "ProcessResponse", "ServeKeywords", "Server", "serve", "unix_serve"]

Handler: TypeAlias = Callable[[ServerConnection], Awaitable[object]]
ProcessRequest: TypeAlias = Callable[[ServerConnection, Request], Any]
ProcessResponse: TypeAlias = Callable[[ServerConnection, Request, Response], Any]
SelectSubprotocol: TypeAlias = Callable[[ServerConnection, Sequence[str]], "str | None"]

_GOING_AWAY = 1001
_INTERNAL_ERROR = 1011
_SWITCHING = 101
_MAX_QUEUE = 16


class ServeKeywords(AioKeywords, total=False):
    """All keywords of `serve`, for type checkers and editors. A test keeps the two the same."""

    auth: plain.Authenticator | None
    origins: Origins | None
    subprotocols: Sequence[str] | None
    select_subprotocol: SelectSubprotocol | None
    compression: Any
    process_request: ProcessRequest | None
    process_response: ProcessResponse | None
    server_header: str | None
    max_queue: int | tuple[int | None, int | None] | None
    logger: logging.Logger | None
    start_serving: bool
    sock: socket.socket | None
    ssl: None


class _Hooks:
    """What a server asks during the handshake, and whether it asks at all."""

    def __init__(
        self,
        process_request: ProcessRequest | None,
        process_response: ProcessResponse | None,
        select_subprotocol: SelectSubprotocol | None,
        origins: Origins | None,
        server_header: str | None,
    ) -> None:
        self.process_request = process_request
        self.process_response = process_response
        self.select_subprotocol = select_subprotocol
        self.origins = checked_origins(origins)
        self.server_header = server_header
        for name in ("process_request", "process_response", "select_subprotocol"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise TypeError(f"{name}: must be a function or None, not {hook!r}")
        if server_header is not None:
            if not isinstance(server_header, str):
                raise TypeError(f"server_header: must be a str or None, not {server_header!r}")
            # Whether it is a field at all.
            plain.Accept(headers={"Server": server_header})

    def __bool__(self) -> bool:
        asked = (self.process_request, self.process_response, self.select_subprotocol, self.origins, self.server_header)
        return any(one is not None for one in asked)


class _AioDoor(Door):
    """Puts requests to the hooks of asyncio's server, on the event loop; then to those every server has."""

    def __init__(self, *args: Any, server: Server) -> None:
        super().__init__(*args)
        self._server = server
        self.helpers = LoopHelpers(args[-1])

    def _visit(self, request: plain.Request) -> Steps:
        """A plain GET: `process_request` may answer it, before the routes do."""
        hook = self._server.hooks.process_request
        if hook is not None:
            connection = self._server.newcomer(request)
            said = yield "process_request", hook, (connection, connection.request)
            if said is not None:
                return encodable(said, "process_request")
        return (yield from super()._visit(request))

    def _admission(self, request: plain.Request, auth: Any) -> Steps:
        hooks = self._server.hooks
        if not hooks:
            return (yield from super()._admission(request, auth))
        connection = self._server.newcomer(request)
        asked = connection.request
        fields: list[tuple[str, str]] = []
        if hooks.origins is not None and not _is_allowed(request.origin, hooks.origins):
            return plain.Response(403, "Failed to open a WebSocket connection: the Origin is not allowed.\n")
        if hooks.process_request is not None:
            said = yield "process_request", hooks.process_request, (connection, asked)
            if said is not None and getattr(said, "status_code", None) != _SWITCHING:
                return encodable(said, "process_request")
            if said is not None:
                fields += extra_fields(said)
        accept = yield from super()._admission(request, auth)
        if isinstance(accept, plain.Response):
            return accept
        subprotocol = accept.subprotocol
        if hooks.select_subprotocol is not None:
            selected = yield "select_subprotocol", hooks.select_subprotocol, (connection, request.subprotocols)
            check_offered(request, selected, "select_subprotocol")
            # An authenticator's stands: a browser that offers its token beside it goes without.
            subprotocol = subprotocol if selected is None else selected
        if hooks.server_header is not None:
            fields.append(("Server", hooks.server_header))
        response = connection.response = Response(_SWITCHING, "Switching Protocols", Headers(fields))
        if hooks.process_response is not None:
            said = yield "process_response", hooks.process_response, (connection, asked, response)
            if said is not None:
                if getattr(said, "status_code", None) != _SWITCHING:
                    return encodable(said, "process_response")
                connection.response = said
            response = connection.response
        request._newcomer = connection
        return plain.Accept(
            subprotocol=subprotocol,
            headers=(*accept.fields, *extra_fields(response)),
            user=accept.user,
            session=accept.session,
            expires=accept.expires,
            authenticated=accept.authenticated,
        )


class _Threaded(threaded.Server):
    """The server that there is without asyncio, driven as a guest, and with asyncio's handshake."""

    def __init__(self, owner: Server, addr: Any, **options: Any) -> None:
        for name in ("loops", "workers"):
            if options.get(name, 1) != 1:
                raise ValueError(f"{name}: must be 1 in an event loop, which has one loop and one process")
        if options.get("private_fds", False) is not False:
            raise ValueError("private_fds: must be False in an event loop, which touches the descriptors itself")
        self._owner = owner
        super().__init__(addr, **options)

    def _new_door(self, proxies: Proxies) -> Door:
        return _AioDoor(
            self._rules, self._options, proxies, self._roll, self._failed, self._stop_for, server=self._owner
        )

    def _new_serving(self, settings: list[dict[str, int]], door: Door) -> Serving:
        return Guest(settings, self._failed, self._options.page, door, self._listeners, self._ended)

    def _furnish(self, run: Serving) -> None:
        super()._furnish(run)
        if self._owner.hooks.process_request is not None:
            assert isinstance(run.door, _AioDoor), "made above"
            for loop in run.loops:
                loop.set_hook("on_route", run.door.on_route)

    def begin(self) -> Serving:
        """Start, and return the run."""
        return self._begin()

    def sockets(self) -> tuple[socket.socket, ...]:
        """Return the listening sockets."""
        return tuple(listener.sock for listener in self._listeners)


class Server:
    """A WebSocket server in an event loop. Made by `serve`, which has the arguments.

    ``async with serve(...) as server``, or ``server = await serve(...)``: from then on it listens. When the event loop
    is closed by `asyncio.run` without the server having been, it is closed then.

    Attributes:
        logger: As given.
        hooks: What is asked during the handshake.
        high_queue, low_queue: `max_queue` as it was given, and where receiving goes on.

    Thread: the event loop's.
    """

    def __init__(
        self,
        handler: Handler,
        addr: Any,
        options: dict[str, Any],
        hooks: _Hooks,
        *,
        auth: plain.Authenticator | None = None,
        subprotocols: Sequence[str] | None = None,
        max_queue: int | tuple[int | None, int | None] | None = _MAX_QUEUE,
        start_serving: bool = True,
        logger: logging.Logger | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self.handler = handler
        self.logger = logging.getLogger("unlimitedws.aio") if logger is None else logger
        self.hooks = hooks
        high, low = marks_of("max_queue", max_queue, "a number of messages")
        self.high_queue, self.low_queue = (NO_LIMIT, NO_LIMIT) if high is None else (high, low)
        self._addr = addr
        self._options = options
        self._auth = check_auth(auth)
        self._subprotocols = () if subprotocols is None else check_subprotocols(subprotocols)
        self._at_once = start_serving
        self._sock = sock
        self._threaded: _Threaded | None = None
        self._run: Serving | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._all: set[ServerConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._is_closing = False
        self._ending: asyncio.Future[None] | None = None
        self._has_closed: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    # Beginning and end

    def __await__(self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def __aenter__(self) -> Self:
        """Listen, and serve."""
        return await self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, and wait until that is done."""
        self.close()
        await self.wait_closed()

    async def _opened(self) -> Self:
        if self._threaded is None:
            self._loop = asyncio.get_running_loop()
            made = _Threaded(self, self._addr, **self._options)
            self._has_closed = self._loop.create_future()
            made.on_connect = self._on_connect
            made.on_message = _on_message
            made.on_drain = _on_drain
            made.on_close = self._on_close
            made.auth = self._auth
            made.subprotocols = list(self._subprotocols)
            self._threaded = made
            if self._at_once:
                await self.start_serving()
        return self

    async def start_serving(self) -> None:
        """Accept connections, where `serve` was told ``start_serving=False``. Does nothing where it does so already.

        Raises:
            RuntimeError: It is closed.
        """
        made = self._made()
        if self._is_closing:
            raise RuntimeError("the server is closed")
        if self._run is None:
            self._run = run = made.begin()
            run.wake = self._stopped
            self._keeper = keeper = self.get_loop().create_task(self._keep())
            # Where the event loop is closed without a word to its tasks, the end of the interpreter sees to the rest.
            keeper._log_destroy_pending = False  # type: ignore[attr-defined]

    async def serve_forever(self) -> None:
        """Serve until the server is closed. Cancelled, close it and wait for that."""
        await self.start_serving()
        await self._keep()

    def close(self, close_connections: bool = True, code: int = _GOING_AWAY, reason: str = "") -> None:
        """Begin to close: accept no more, close the connections, then wait for the handlers. Called again, nothing.

        Args:
            close_connections: False leaves the connections that there are until their clients close them, or their
                handlers return; newcomers are still served meanwhile, and waited for like them.
            code: The close code that clients get.
            reason: At most 123 bytes as UTF-8.

        Raises:
            TypeError, ValueError: code may not be sent, or reason is too long. Nothing has been closed.
        """
        check_close(code, reason)
        if self._closing is None and self._threaded is not None:
            self._is_closing = True
            self._closing = self.get_loop().create_task(self._close(close_connections, code, reason))

    async def wait_closed(self) -> None:
        """Wait until the server has closed: every connection has ended, every handler has returned."""
        self._made()
        assert self._has_closed is not None, "made with it"
        await asyncio.shield(self._has_closed)

    async def _close(self, close_connections: bool, code: int, reason: str) -> None:
        made = self._made()
        run = self._run
        try:
            if run is None:
                made.stop()
                return
            if not close_connections:
                # Cancelled: see below. The handlers are, too, so nobody is let be any longer.
                with contextlib.suppress(asyncio.CancelledError):
                    await self._farewell()
            for connection in list(self._all):
                connection._close(code, reason)
            # Who has not said yet who it is is in no list of ours.
            run.shut(made.options.close_timeout, code, reason)
            while self._tasks or not run.ended.is_set():
                # `asyncio.run` cancels this task as all others before it closes the event loop. What has begun comes to
                # its end all the same: the engine would outlive the event loop, with its thread and its port.
                with contextlib.suppress(asyncio.CancelledError):
                    await self._end_of(run)
        finally:
            if self._sock is not None:
                self._sock.close()
            assert self._has_closed is not None, "made with it"
            if not self._has_closed.done():
                self._has_closed.set_result(None)

    async def _end_of(self, run: Serving) -> None:
        """Wait until the handlers have returned, and the engine has come to its end."""
        await self._farewell()
        while not run.ended.is_set():
            self._ending = self.get_loop().create_future()
            await self._ending

    async def _farewell(self) -> None:
        """Let the connections be that there are, until the last has gone."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _stopped(self) -> None:
        """The engine has come to its end."""
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(None)
        if not self._is_closing and not self.get_loop().is_closed():
            # Not by us: a callback raised what stops everything, or the engine failed.
            self.close()

    async def _keep(self) -> None:
        """Wait until it has closed; cancelled, close it and wait for that. A task of its own notices so that the event
        loop is about to end: `asyncio.run` cancels its tasks before it closes it."""
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise

    # What it is and how it is doing

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop.

        Raises:
            RuntimeError: It has none yet: nobody has awaited it.
        """
        self._made()
        assert self._loop is not None, "made in it"
        return self._loop

    def is_serving(self) -> bool:
        """Tell whether it accepts connections."""
        return self._run is not None and not self._is_closing

    @property
    def connections(self) -> set[ServerConnection]:
        """The connections that are open: upgraded, and not closing. A set of the caller's own."""
        return {connection for connection in self._all if connection._end is None and connection._said is None}

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets, to ask for their addresses; none once it is closed."""
        return () if self._threaded is None else self._threaded.sockets()

    @property
    def server(self) -> threaded.Server:
        """The server underneath: counters, `disconnect`, routes, `auth`.

        Its hooks for connections are taken; `start`, `run` and `stop` are not for this one.

        Raises:
            RuntimeError: Nobody has awaited it.
        """
        return self._made()

    def __repr__(self) -> str:
        state = f"{len(self._all)} connections" if self.is_serving() else "not serving"
        return f"<unlimitedws.aio.Server {state}>"

    def _made(self) -> _Threaded:
        if self._threaded is None:
            raise RuntimeError("the server is not there yet: await it, or enter it with async with")
        return self._threaded

    # Inside

    def newcomer(self, request: plain.Request) -> ServerConnection:
        """Make the connection that hooks of the handshake get to see."""
        connection = ServerConnection(self, self.get_loop())
        connection.request = Request(request.target, request)
        return connection

    def hear_pongs(self) -> None:
        """Somebody waits for a pong: from now on the engine tells of them."""
        made = self._made()
        if not made.on_pong:
            made.on_pong = _on_pong

    def _on_connect(self, conn: Conn) -> None:
        full: plain.Request | None = conn.request
        connection = None if full is None else full._newcomer
        if full is None or connection is None:
            connection = ServerConnection(self, self.get_loop())
            query = f"?{conn.query}" if conn.query else ""
            connection.request = Request(conn.path + query, full)
        else:
            # It was on its way to here; the connection has the request, which would have the connection.
            full._newcomer = None
        connection._opened(conn)
        self._all.add(connection)
        task = self.get_loop().create_task(self._serve(connection))
        # The event loop itself holds its tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_close(self, conn: Conn) -> None:
        # Each has the other: not let go of here, both would stay until the garbage collector comes round.
        connection, conn.data = conn.data, None
        self._all.discard(connection)
        connection._closed(conn)

    async def _serve(self, connection: ServerConnection) -> None:
        """Run the handler of one connection, and close it behind it."""
        code = _INTERNAL_ERROR
        try:
            await self.handler(connection)
            code = 1000
        except ConnectionClosed as exc:
            if connection._conn is not None and connection._conn.is_open:
                # Somebody else's connection.
                self._failed(connection)
            else:
                # The client left while the handler was at work. That is its right, and nobody's mistake.
                connection.logger.debug("the connection was closed: %s", exc)
        except Exception:
            self._failed(connection)
        finally:
            # Also where it is cancelled, and then without waiting.
            connection._close(code, "")
        await connection.wait_closed()

    def _failed(self, connection: ServerConnection) -> None:
        connection.logger.exception("the handler of %r raised", connection)


def _on_message(conn: Conn, message: Any) -> None:
    conn.data._received(message)


def _on_pong(conn: Conn, payload: bytes) -> None:
    conn.data._ponged(payload)


def _on_drain(conn: Conn) -> None:
    conn.data._room()


def serve(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    auth: plain.Authenticator | None = None,
    origins: Origins | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    compression: Any = None,
    process_request: ProcessRequest | None = None,
    process_response: ProcessResponse | None = None,
    server_header: str | None = None,
    max_queue: int | tuple[int | None, int | None] | None = _MAX_QUEUE,
    logger: logging.Logger | None = None,
    start_serving: bool = True,
    sock: socket.socket | None = None,
    ssl: None = None,
    **options: Unpack[AioKeywords],
) -> Server:
    """Serve WebSockets on the running event loop: ``async with serve(handler, "127.0.0.1", 8000):``.

    Each connection has a task that runs ``handler(connection)``. When it returns the connection is closed with 1000,
    when it raises that is logged and the connection closed with 1011.

    Args:
        handler: A coroutine function; it gets the `ServerConnection`.
        host: An address or a name, or several; None: every address of the machine. Without a port also whatever
            `Server` of `unlimitedws` takes: ``":8000"``, ``"unix:/run/app.sock"``, ``"systemd"``.
        port: 0 lets the kernel choose.
        auth: Who is asked who a client is, before anybody is let in: see `unlimitedws.auth`. None: nobody.
        origins: What the Origin field may be: texts, patterns that match all of it, None for requests without one.
            Others get 403. None: anything.
        subprotocols: Ours, the one we like best first. Of several that a client offers the first of ours is taken.
        select_subprotocol: Called with the connection and the client's, returns one of them, or None. Anything else
            is an error of its own: 500.
        compression: "deflate" or True, None or False (the default here), or a `Compression`.
        process_request: Called with the connection and the request, plain or ``async``, also for an ordinary GET.
            Returns a `Response` (see `ServerConnection.respond`), or None to go on.
        process_response: Called with the connection, the request and the 101 response before it is sent; may add
            header fields, or return another response.
        server_header: The Server field of the response; None: there is none.
        max_queue: Messages of a connection that wait to be received, 16; more than that are not read from it. Or
            (high, low): reading goes on when it is down to low, high // 4 without one. None: without limit.
        logger: For what handlers raise; ``logging.getLogger("unlimitedws.aio")`` by default.
        start_serving: False: listen, but accept nobody until `Server.start_serving`.
        sock: A stream socket to accept from instead. It is closed with the server.
        ssl: Only None: a proxy ends TLS. See docs/deployment.md.
        options: The fields of `Options`; and by their names in `websockets` ``open_timeout``, ``ping_interval``,
            ``ping_timeout``, ``close_timeout`` (None: a day, which is the longest), ``max_size`` (bytes or None),
            ``write_limit`` (bytes, or high and low). Those left out have the defaults of `Options`, but for
            `overflow`: "close".

    Raises:
        TypeError, ValueError: An argument is unknown or impossible; the message names it.
        OSError, AddressError: From awaiting it: the address cannot be had.

    Thread: any; it serves on the event loop that it is awaited in.
    """
    if ssl is not None:
        raise ValueError("ssl: TLS is not done here; put a proxy in front that does, and name it in trusted_proxies")
    if not callable(handler):
        raise TypeError(f"handler: must be a coroutine function, not {handler!r}")
    hooks = _Hooks(process_request, process_response, select_subprotocol, origins, server_header)
    found = translated(options)
    found["compression"] = compression_of(compression)
    if hooks:
        if found.get("keep_request") is False:
            raise ValueError("keep_request: hooks of the handshake need the request")
        found["keep_request"] = True
    # Where hooks run there is one thread, the event loop's.
    for name in ("pool", "request_workers", "streaming"):
        if name in found:
            raise ValueError(f"{name}: there is one thread here, and it runs the event loop")
    if found.get("overflow", "close") == "block":
        raise ValueError("overflow: 'block' would hold up the event loop; send() waits by itself, broadcast() never")
    found.setdefault("overflow", "close")
    found["request_workers"] = 0
    # What is wrong is said here, and not where it is awaited.
    check_options(found, options)
    return Server(
        handler,
        address_of(host, port, sock),
        found,
        hooks,
        auth=auth,
        subprotocols=subprotocols,
        max_queue=max_queue,
        start_serving=start_serving,
        logger=logger,
        sock=sock,
    )


def unix_serve(handler: Handler, path: str | None = None, **kwargs: Unpack[ServeKeywords]) -> Server:
    """Serve on a Unix socket: `serve`, with the path of its file, or with ``sock``."""
    if path is None and kwargs.get("sock") is None:
        raise ValueError("path: a Unix socket has one")
    return serve(handler, None if path is None else f"unix:{path}", **kwargs)


def _is_allowed(origin: str | None, allowed: Origins) -> bool:
    for one in allowed:
        if one is None or origin is None:
            if one is origin:
                return True
        elif one == origin if isinstance(one, str) else one.fullmatch(origin):
            return True
    return False
