"""The door of a running server: puts each request to the hooks, and tells the engine what they decided.

Owns the order of the hooks and the threads they run on. Called by the engine, for upgrades and for plain GETs;
goes on from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import partial
from inspect import CO_COROUTINE, isawaitable, iscoroutinefunction
from threading import Thread
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeAlias

from _uws.exchange import Exchange

from .about import About, Roll, Stranger, milliseconds_until
from .durations import milliseconds, seconds
from .gate import Gate
from .helpers import Helpers
from .options import Options
from .proxies import Proxies
from .request import Accept, Authenticator, Decision, FirstMessage, Reject, Request, Response
from .routes import Routes, answer_of

if TYPE_CHECKING:
    from .coroutines import Done

__all__ = ["Door", "Rules", "Step", "Steps", "check_offered"]

# As the engine words its own, which also adds the Date.
_ERROR = Response(500, "The server failed to handle this request.\n").encode()
_BUSY = Reject(503, "The server is too busy; try again soon.\n", {"Retry-After": "1"}).encode()
_REVOKED = Reject(403).encode()
_NO_ROUTE = (
    b"HTTP/1.1 426 Upgrade Required\r\nConnection: close, Upgrade\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 51\r\nUpgrade: websocket\r\n\r\nThis address speaks WebSocket: ask for an upgrade.\n"
)

_YES = Accept()

# What a function that is not to be awaited returns, nearly always.
_PLAIN_RESULTS = frozenset({type(None), Accept, Reject, Response, str, bytes})

# Fields of the handshake itself, which gobwas does not show to OnHeader either; Host has a hook of its own.
_NOT_SHOWN = ("connection", "host", "upgrade")
_NOT_SHOWN_PREFIX = "sec-websocket-"


class Rules:
    """What a server decides by. Outlives its runs; changed at any time, one attribute at a time.

    Attributes:
        hooks: The server's, by name.
        auth: Asked first; None: nobody is.
        subprotocols: Ours, the one we like best first.
        routes: For requests that are no upgrades.
    """

    def __init__(self, hooks: Mapping[str, Callable[..., Any]]) -> None:
        self.hooks = hooks
        self.auth: Authenticator | None = None
        self.subprotocols: tuple[str, ...] = ()
        self.routes = Routes()


Step: TypeAlias = tuple[str, Callable[..., Any], tuple[object, ...]]
"""What to call next: what the log is to call it, the function, its arguments."""

# Asks for one call after the other, and returns what is to be answered: so it does not matter where they run.
Steps: TypeAlias = Generator[Step, Any, Accept | Response]


class _Ask:
    """One request on its way to its answer."""

    __slots__ = ("args", "auth", "exchange", "func", "name", "request", "since", "steps")

    def __init__(
        self, exchange: Exchange, request: Request, steps: Steps, auth: Authenticator | None = None
    ) -> None:
        self.auth = auth
        self.exchange = exchange
        self.request = request
        self.steps = steps
        # The step that is under way; of a request that did not get as far as its first, the name alone.
        self.name = "on_request"
        self.func: Callable[..., Any]
        self.args: tuple[object, ...]
        self.since = time.monotonic()


class Door:
    """Decides on requests while a server runs.

    A hook that is a coroutine function runs on one asyncio thread. A plain one runs on the thread that the
    engine calls with where the server has a pool, and less than half of its threads are at work for strangers;
    elsewhere, and behind a coroutine, on one of the helpers.

    Args:
        rules: Looked at anew for each request.
        options: The server's.
        proxies: Who is believed about others.
        roll: Where those who come in are entered.
        failed: A hook raised: called with the request, the exception (any BaseException), and the hook's name.
        fatal: See `Helpers`.

    Attributes:
        helpers: The threads beside the engine's.
        gate: Stands before the callbacks, where connections begin as strangers; None elsewhere.
    """

    def __init__(
        self,
        rules: Rules,
        options: Options,
        proxies: Proxies,
        roll: Roll,
        failed: Callable[[Request, BaseException, str], object],
        fatal: Callable[[BaseException], object],
    ) -> None:
        self._rules = rules
        self._keep_request = options.keep_request
        self._limit = seconds(options.request_timeout, "request_timeout")
        self._auth_timeout = options.auth_timeout
        self._proxies = proxies if proxies else None
        self._roll = roll
        self._failed = failed
        # For each hook that may yet begin on a thread of the engine's one entry: who is inside needs the other half.
        self._seats = [] if options.pool is None else [None] * (options.pool[0] // 2)
        self.helpers = Helpers(options.request_workers, fatal)
        self.gate: Gate | None = None

    def _request_of(self, exchange: Exchange) -> Request:
        believe = None
        if self._proxies is not None:
            peer = exchange.ends.peer_addr
            if self._proxies.trusts(peer):
                believe = partial(self._proxies.seen, peer)
        return Request._on(exchange.head, exchange.ends, believe)

    def on_request(self, exchange: Exchange) -> None:
        """Decide on an upgrade. The engine's hook. Does not raise."""
        request = self._request_of(exchange)
        # The one that is asked now also decides what is missing: another may be set meanwhile.
        auth = self._rules.auth
        self._begin(_Ask(exchange, request, self._admission(request, auth), auth))

    def on_route(self, exchange: Exchange) -> None:
        """Answer a plain GET. The engine's hook. Does not raise."""
        request = self._request_of(exchange)
        self._begin(_Ask(exchange, request, self._visit(request)))

    def threads(self) -> set[Thread]:
        """Return the threads that hooks run on, beside the engine's. Thread: any."""
        return self.helpers.threads()

    def shut(self) -> None:
        """The server stops: no callback waits for a verifier any more. Takes no lock. Thread: any."""
        gate = self.gate
        if gate is not None:
            gate.shut()

    def close(self) -> None:
        """Cancel the hooks that are awaited, wait for the others. The engine has stopped. Thread: the engine's."""
        self.helpers.close()

    def _visit(self, request: Request) -> Steps:
        handler = self._rules.routes.get(request.path)
        if handler is None:
            return _NoRoute(426)
        return (yield from _answering(handler, request))

    def _admission(self, request: Request, auth: Authenticator | None) -> Steps:
        hooks = self._rules.hooks
        accept = _YES
        if auth is not None:
            said = _decision((yield "auth.check", auth.check, (request,)), "auth.check")
            if isinstance(said, Reject):
                return said
            if said is not None:
                check_offered(request, said.subprotocol, "auth.check")
                accept = said
                request.user, request.session = accept.user, accept.session
        hook = hooks.get("on_request")
        if hook is not None:
            said = _decision((yield "on_request", hook, (request,)), "on_request")
            if isinstance(said, Reject):
                return said
            if said is not None:
                check_offered(request, said.subprotocol, "on_request")
                accept = accept.joined(said)
        hook = hooks.get("on_host")
        if hook is not None:
            refused = _objection((yield "on_host", hook, (request.host,)), "on_host")
            if refused is not None:
                return refused
        hook = hooks.get("on_header")
        if hook is not None:
            for name, value in request.headers.raw:
                if name.lower() in _NOT_SHOWN or name.lower().startswith(_NOT_SHOWN_PREFIX):
                    continue
                refused = _objection((yield "on_header", hook, (name, value)), "on_header")
                if refused is not None:
                    return refused
        return accept

    # Where it runs. Nothing below raises.

    def _begin(self, ask: _Ask) -> None:
        """Ask the first one, on a thread of the engine's."""
        try:
            if not self._next(ask, None):
                return
            if not self._seats or not self._take_seat():
                self._place(ask, False)
                return
            try:
                self._place(ask, True)
            finally:
                self._seats.append(None)
        except BaseException as exc:
            self._fail(ask, exc)

    def _take_seat(self) -> bool:
        try:
            self._seats.pop()
        except IndexError:
            # Others have been faster.
            return False
        return True

    def _next(self, ask: _Ask, result: object) -> bool:
        """Find out what is to be called next. False: nothing more, the request has its answer."""
        try:
            ask.name, ask.func, ask.args = ask.steps.send(result)
            return True
        except StopIteration as stop:
            decision = stop.value
        # Out here: what it raises is logged with its context, and a StopIteration would show the decision.
        self._finish(ask, decision)
        return False

    def _place(self, ask: _Ask, may_block: bool) -> None:
        """Have the next call made, here where this thread may block, or where it belongs."""
        if _is_async(ask.func):
            self._await(ask, partial(ask.func, *ask.args))
        elif may_block:
            self._call(ask)
        elif not self.helpers.submit(partial(self._call, ask)):
            ask.exchange.answer(503, _BUSY)

    def _call(self, ask: _Ask) -> None:
        """Make calls, one after the other, as long as they are plain ones."""
        try:
            # It may have waited for this thread for longer than anybody waits for the answer.
            while ask.exchange.pending:
                result = ask.func(*ask.args)
                if type(result) not in _PLAIN_RESULTS and isawaitable(result):
                    self._await_given(ask, result)
                    return
                if not self._next(ask, result):
                    return
                if _is_async(ask.func):
                    self._place(ask, True)
                    return
        except BaseException as exc:
            self._fail(ask, exc)

    def _await(self, ask: _Ask, work: Callable[[], Any], done: Done | None = None) -> bool:
        left = max(ask.since + self._limit - time.monotonic(), 0.0)
        if self.helpers.submit_async(work, left, done or partial(self._awaited, ask), lambda: ask.exchange.pending):
            return True
        ask.exchange.answer(503, _BUSY)
        return False

    def _await_given(self, ask: _Ask, work: Awaitable[Any]) -> None:
        """Await what a plain function has returned."""
        from .coroutines import Given

        given = Given(work)

        def done(result: object, error: BaseException | None) -> None:
            given.drop()
            self._awaited(ask, result, error)

        if not self._await(ask, given, done):
            given.drop()

    def _awaited(self, ask: _Ask, result: object, error: BaseException | None) -> None:
        """A coroutine has returned, on the asyncio thread."""
        from .coroutines import Late

        if isinstance(error, Late):
            ask.exchange.answer(503, _BUSY)
            return
        try:
            if error is not None:
                raise error
            if ask.exchange.pending and self._next(ask, result):
                self._place(ask, False)
        except BaseException as exc:
            self._fail(ask, exc)
        finally:
            del error

    # The answer

    def _finish(self, ask: _Ask, decision: Accept | Response) -> None:
        if isinstance(decision, Response):
            ask.exchange.answer(decision.status, decision.encode(), decision.is_dated)
        else:
            self._accept(ask, decision)

    def _accept(self, ask: _Ask, accept: Accept) -> None:
        stranger: FirstMessage | None = None
        if not accept.authenticated:
            stranger = getattr(ask.auth, "first_message", None)
        about: About | None = None
        if (
            accept.user is not None
            or accept.session is not None
            or self._keep_request
            or stranger is not None
        ):
            about = About(self._roll, accept.user, accept.session)
            about.request = ask.request if self._keep_request else None
            about.stranger = None if stranger is None else Stranger(stranger, accept)
            if not self._roll.admit(about, ask.since):
                ask.exchange.answer(403, _REVOKED)
                return
        patience = 0
        if not accept.authenticated:
            patience = milliseconds(
                self._auth_timeout if stranger is None else stranger.timeout, "auth_timeout"
            )
            if stranger is not None:
                self._roll.widen(patience / 1e3)
        subprotocol = accept.subprotocol or self._chosen(ask.request) or ""
        is_open = False
        try:
            is_open = ask.exchange.accept(
                subprotocol.encode(),
                accept.field_lines(),
                about,
                patience,
                milliseconds_until(accept.expires),
            )
        finally:
            if about is not None and not is_open:
                self._roll.drop(about)
        if about is not None and is_open:
            self._roll.settle(about)

    def _chosen(self, request: Request) -> str | None:
        """The first of our subprotocols that the client offers."""
        ours = self._rules.subprotocols
        if not ours:
            return None
        offered = request.subprotocols
        return next((name for name in ours if name in offered), None)

    def _fail(self, ask: _Ask, exc: BaseException) -> None:
        """A hook raised, or returned what it must not."""
        if not isinstance(exc, Exception | KeyboardInterrupt | SystemExit):
            # Such as asyncio.CancelledError: of a hook's own doings, and no order to stop the server.
            wrapped = RuntimeError(f"{ask.name} raised {type(exc).__name__}")
            wrapped.__cause__ = exc
            exc = wrapped
        try:
            ask.exchange.answer(500, _ERROR)
        finally:
            self._failed(ask.request, exc, ask.name)


class _NoRoute(Response):
    """What the engine says itself where there is no route."""

    def encode(self) -> bytes:
        return _NO_ROUTE


def _is_async(func: Callable[..., Any]) -> bool:
    """Tell whether a function is a coroutine function, as inspect does: at once for what nearly every hook is."""
    plain = func.__func__ if type(func) is MethodType else func
    # One that was marked as such (`inspect.markcoroutinefunction`) has that in its attributes.
    if type(plain) is FunctionType and not plain.__dict__:
        return bool(plain.__code__.co_flags & CO_COROUTINE)
    return iscoroutinefunction(func)


def _answering(handler: Callable[[Request], Any], request: Request) -> Steps:
    name = f"route {request.path}"
    return answer_of((yield name, handler, (request,)), name)


def _decision(said: object, name: str) -> Decision:
    """Return what was said if it is a decision.

    Raises:
        TypeError: It is none. True, say, lets nobody in.
    """
    if said is None or isinstance(said, Accept | Reject):
        return said
    raise TypeError(f"{name} must return Accept, Reject or None, not {type(said).__name__}")


def _objection(said: object, name: str) -> Reject | None:
    """Return what was said by a hook that may only object. Raises as `_decision`."""
    if said is None or isinstance(said, Reject):
        return said
    raise TypeError(f"{name} must return Reject or None, not {type(said).__name__}")


def check_offered(request: Request, subprotocol: object, name: str) -> None:
    """Check that a subprotocol, if there is one, is one of the client's.

    Args:
        request: The client's.
        subprotocol: What a hook has selected; None: none.
        name: The hook's, for the message.

    Raises:
        TypeError: It is neither a `str` nor None.
        ValueError: It is not offered: the client would have to fail the connection (RFC 6455, section 4.1).
    """
    # Neither what was offered is in the messages nor what was made of it: a token may be among it.
    if not isinstance(subprotocol, str | None):
        raise TypeError(f"{name} must select a subprotocol, a str, or None, not {type(subprotocol).__name__}")
    if subprotocol is not None and subprotocol not in request.subprotocols:
        raise ValueError(f"{name} selects a subprotocol that the client does not offer")

