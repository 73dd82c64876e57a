"""What is asked of whom, in which order, and on which thread; without an engine: see wire/test_hooks.py for that."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from _uws.conn import check_close
from unlimitedws import Accept, Address, CloseCause, Options, Reject, Request, Response
from unlimitedws import helpers as helpers_module
from unlimitedws.about import About, Roll, Stranger, milliseconds_until
from unlimitedws.coroutines import AsyncThread, Late
from unlimitedws.door import Door, Rules, _is_async
from unlimitedws.gate import Gate
from unlimitedws.helpers import Helpers
from unlimitedws.proxies import Proxies

PATIENCE = 10.0
HEAD = (
    b"GET /chat?x=1 HTTP/1.1\r\nHost: example.org\r\nX-First: 1\r\nUpgrade: websocket\r\nconnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Protocol: a, b\r\nx-second: 2\r\nX-First: 3\r\n\r\n"
)


class FakeConn:
    """What the roll and the gate use of a connection."""

    def __init__(self, about: Any = None) -> None:
        self._about = about
        self.is_open = True
        self.is_ending = False
        self.ended: list[tuple[int, int, str]] = []
        self.expires_ms: int | None = None
        self.is_suspended = False
        self.recalled = threading.Event()

    def _suspend(self) -> bool:
        self.is_suspended = True
        return True

    def _recall(self) -> bool:
        was_suspended, self.is_suspended = self.is_suspended, False
        if was_suspended:
            self.recalled.set()
        return was_suspended

    def _is_awaited(self) -> bool:
        return self.is_open or self.is_ending

    def _identify(self, about: Any, expires_ms: int, was_stranger: bool) -> bool:
        takes = self.is_open or self.is_ending
        if takes:
            self._about = about
            self.expires_ms = expires_ms
        return takes

    def _end(self, cause: int, code: int, reason: str) -> None:
        if self.is_open:
            self.is_open = False
            self.ended.append((cause, code, reason))

    def over(self) -> None:
        """The engine has told everybody."""
        self.is_open = False
        if self._about is not None:
            self._about.closed(self)


class FakeEnds:
    """The addresses of a request."""

    remote_addr = peer_addr = Address("192.0.2.7", 4321)
    local_addr = Address("192.0.2.1", 80)
    is_secure = False


class FakeExchange:
    """A request that waits for its answer, as the engine's."""

    def __init__(self, head: bytes = HEAD) -> None:
        self.ends = FakeEnds()
        self.head = head
        self.pending = True
        self.answered = threading.Event()
        self.accepted: dict[str, Any] | None = None
        self.response: tuple[int, bytes] | None = None
        self.conn: FakeConn | None = None
        self.on_accept: Callable[[], object] = lambda: None

    def accept(self, subprotocol: bytes, headers: bytes, about: Any, auth_ms: int, expires_ms: int) -> bool:
        if about is not None:
            self.conn = about.conn = FakeConn(about)
        self.on_accept()
        was, self.pending = self.pending, False
        if was:
            self.accepted = {
                "subprotocol": subprotocol,
                "headers": headers,
                "about": about,
                "auth_ms": auth_ms,
                "expires_ms": expires_ms,
            }
            self.answered.set()
        return was

    def answer(self, status: int, response: bytes, is_dated: bool = False) -> bool:
        was, self.pending = self.pending, False
        assert is_dated == (b"\r\ndate: " in response.lower())
        if was:
            assert response.startswith(b"HTTP/1.1 %d " % status)
            self.response = status, response
            self.answered.set()
        return was

    @property
    def status(self) -> int:
        """Wait for the answer; 101 where it was let in."""
        assert self.answered.wait(PATIENCE), "no answer"
        return 101 if self.response is None else self.response[0]


class Setting:
    """A door, and what it is told to report."""

    def __init__(self, hooks: dict[str, Any], **options: Any) -> None:
        self.hooks = hooks
        self.rules = Rules(hooks)
        self.roll = Roll(5.0)
        self.failures: list[tuple[Request, BaseException, str]] = []
        self.fatal: list[BaseException] = []
        made = Options(**options)
        proxies = Proxies(made.trusted_proxies, made.forwarded_header)
        self.door = Door(self.rules, made, proxies, self.roll, self._failed, self.fatal.append)

    def _failed(self, request: Request, exc: BaseException, hook: str) -> None:
        self.failures.append((request, exc, hook))

    def ask(self, head: bytes = HEAD) -> FakeExchange:
        exchange = FakeExchange(head)
        self.door.on_request(exchange)  # type: ignore[arg-type]
        return exchange

    def get(self, path: str) -> FakeExchange:
        exchange = FakeExchange(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        self.door.on_route(exchange)  # type: ignore[arg-type]
        return exchange


@pytest.fixture
def setting() -> Iterator[Callable[..., Setting]]:
    made: list[Setting] = []

    def make(hooks: dict[str, Any] | None = None, **options: Any) -> Setting:
        made.append(Setting({} if hooks is None else hooks, **options))
        return made[-1]

    yield make
    for one in made:
        one.door.close()
        assert one.door.threads() == set()


class Auth:
    """An authenticator that says what it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Request] = []

    def check(self, request: Request) -> Any:
        self.asked.append(request)
        return self.answer


Make = Callable[..., Setting]


# In which order


def recording(calls: list[Any], name: str, answer: Any, is_async: bool) -> Any:
    def plain(*args: Any) -> Any:
        calls.append((name, *args[-2:]))
        return answer

    async def awaited(*args: Any) -> Any:
        await asyncio.sleep(0)
        return plain(*args)

    return awaited if is_async else plain


@pytest.mark.parametrize(
    "mode", [{}, {"pool": (1, 1)}, {"request_workers": 0}], ids=["inline", "pool", "none"]
)
@pytest.mark.parametrize("kinds", ["ssss", "aaaa", "asas", "sasa", "ssaa", "aass"])
def test_hooks_are_asked_in_gobwas_order_wherever_they_run(
    setting: Make, kinds: str, mode: dict[str, Any]
) -> None:
    calls: list[Any] = []
    hooks = {
        name: recording(calls, name, None, kind == "a")
        for name, kind in zip(("on_request", "on_host", "on_header"), kinds[1:], strict=True)
    }
    place = setting(hooks, **mode)
    auth = Auth(None)
    auth.check = recording(calls, "auth", None, kinds[0] == "a")  # type: ignore[method-assign]
    place.rules.auth = auth
    assert place.ask().status == 101
    assert [call[0] for call in calls[:2]] == ["auth", "on_request"]
    assert calls[0][1] is calls[1][1]
    assert calls[2:] == [
        ("on_host", "example.org"),
        ("on_header", "X-First", "1"),
        ("on_header", "x-second", "2"),
        ("on_header", "X-First", "3"),
    ]
    assert not place.failures


@pytest.mark.parametrize("who", ["auth", "on_request", "on_host", "on_header"])
@pytest.mark.parametrize("is_async", [False, True])
def test_nobody_is_asked_behind_a_rejection(setting: Make, who: str, is_async: bool) -> None:
    calls: list[Any] = []
    order = ["auth", "on_request", "on_host", "on_header"]
    made = {
        name: recording(calls, name, Reject(418, "no") if name == who else None, is_async) for name in order
    }
    place = setting({name: func for name, func in made.items() if name != "auth"})
    place.rules.auth = auth = Auth(None)
    auth.check = made["auth"]  # type: ignore[method-assign]
    assert place.ask().status == 418
    assert [call[0] for call in calls] == order[: order.index(who) + 1]


def test_what_the_authenticator_found_is_there_for_on_request(setting: Make) -> None:
    seen: list[Any] = []
    place = setting({"on_request": lambda request: seen.append((request.user, request.session))})
    place.rules.auth = Auth(Accept(user=7, session="s"))
    exchange = place.ask()
    assert exchange.status == 101
    assert seen == [(7, "s")]
    about = exchange.accepted and exchange.accepted["about"]
    assert (about.user, about.session, about.request) == (7, "s", None)


def test_authenticator_and_on_request_are_joined(setting: Make) -> None:
    now = time.time()
    place = setting(
        {"on_request": lambda request: Accept("b", {"X-B": "2"}, session="mine", expires=now + 5000)}
    )
    place.rules.auth = Auth(Accept("a", {"X-A": "1"}, 7, "theirs", now + 1000, authenticated=False))
    exchange = place.ask()
    assert exchange.status == 101
    assert exchange.accepted is not None
    assert exchange.accepted["subprotocol"] == b"b"
    assert exchange.accepted["headers"] == b"X-A: 1\r\nX-B: 2\r\n"
    assert (exchange.accepted["about"].user, exchange.accepted["about"].session) == (7, "mine")
    # Neither lengthens what the other allows.
    assert 990_000 < exchange.accepted["expires_ms"] <= 1_000_000
    assert exchange.accepted["auth_ms"] == 10_000


def test_authenticator_that_is_replaced_meanwhile_still_decides_on_its_requests(setting: Make) -> None:
    entered, leave = threading.Event(), threading.Event()

    def on_request(request: Request) -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    place = setting({"on_request": on_request})
    first = FirstMessage()
    place.rules.auth = first  # type: ignore[assignment]
    exchange = place.ask()
    assert entered.wait(PATIENCE)
    place.rules.auth = None
    leave.set()
    assert exchange.status == 101
    assert exchange.accepted is not None
    assert exchange.accepted["about"].stranger.auth is first
    assert exchange.accepted["auth_ms"] == 2000


def test_nothing_is_kept_of_a_connection_of_nobody(setting: Make) -> None:
    exchange = setting({"on_request": lambda request: Accept(headers={"X-A": "1"})}).ask()
    assert exchange.status == 101
    assert exchange.accepted is not None
    assert exchange.accepted["about"] is None
    assert (exchange.accepted["auth_ms"], exchange.accepted["expires_ms"]) == (0, 0)


def test_request_is_kept_by_option_only(setting: Make) -> None:
    exchange = setting(keep_request=True).ask()
    assert exchange.status == 101
    assert exchange.accepted is not None
    assert exchange.accepted["about"].request.path == "/chat"


# What proxies say

PROXIED = HEAD.replace(
    b"X-First: 1\r\n",
    b"X-Forwarded-For: 198.51.100.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n",
)


@pytest.mark.parametrize(
    ("trusted", "expected"), [((), (False, "example.org")), (("192.0.2.0/24",), (True, "a.example"))]
)
def test_transport_and_host_of_the_client_are_those_that_a_trusted_proxy_says(
    setting: Make, trusted: tuple[str, ...], expected: tuple[bool, str]
) -> None:
    seen: list[Any] = []
    place = setting(
        {
            "on_request": lambda request: seen.append((request.is_secure, request.host)),
            "on_host": lambda host: seen.append(host),
        },
        trusted_proxies=trusted,
    )
    assert place.ask(PROXIED).status == 101
    assert seen == [expected, expected[1]]


def test_no_address_is_made_where_nobody_asks_for_one(setting: Make) -> None:
    class Unasked(FakeEnds):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"{name} was asked for")

    place = setting({"on_request": lambda request: None})
    exchange = FakeExchange()
    exchange.ends = Unasked()
    place.door.on_request(exchange)  # type: ignore[arg-type]
    assert exchange.status == 101


def test_transport_that_the_engine_knows_of_stays_known(setting: Make) -> None:
    # As the PROXY protocol says it.
    seen: list[bool] = []
    place = setting({"on_request": lambda request: seen.append(request.is_secure)})
    exchange = FakeExchange()
    exchange.ends.is_secure = True
    place.door.on_request(exchange)  # type: ignore[arg-type]
    assert exchange.status == 101
    assert seen == [True]


# Subprotocols


@pytest.mark.parametrize(
    ("ours", "said", "expected"),
    [
        ((), None, b""),
        (("b", "a"), None, b"b"),
        (("c", "a"), None, b"a"),
        (("c",), None, b""),
        (("A",), None, b""),
        (("a",), "b", b"b"),
        ((), "a", b"a"),
    ],
)
def test_subprotocol_is_what_accept_says_or_the_first_of_ours(
    setting: Make, ours: tuple[str, ...], said: str | None, expected: bytes
) -> None:
    place = setting({"on_request": lambda request: Accept(said)})
    place.rules.subprotocols = ours
    exchange = place.ask()
    assert exchange.status == 101
    assert exchange.accepted is not None
    assert exchange.accepted["subprotocol"] == expected


@pytest.mark.parametrize("who", ["auth", "on_request"])
def test_subprotocol_that_was_not_offered_is_an_error_of_who_said_it(setting: Make, who: str) -> None:
    place = setting({"on_request": lambda request: Accept("secret" if who == "on_request" else None)})
    place.rules.auth = Auth(Accept("secret" if who == "auth" else None))
    assert place.ask().status == 500
    [(request, exc, hook)] = place.failures
    assert isinstance(exc, ValueError)
    # What was made of an offer may still be a credential.
    assert "does not offer" in str(exc) and "secret" not in str(exc)
    assert hook.startswith(who) and str(exc).startswith(hook)
    assert request.path == "/chat"


# What goes wrong


@pytest.mark.parametrize("bad", [True, False, 403, "no", Reject, Response(200), object()])
@pytest.mark.parametrize("name", ["auth.check", "on_request", "on_host", "on_header"])
def test_answer_that_is_no_decision_lets_nobody_in(setting: Make, name: str, bad: Any) -> None:
    place = setting({} if name == "auth.check" else {name: lambda *args: bad})
    if name == "auth.check":
        place.rules.auth = Auth(bad)
    assert place.ask().status == 500
    [(_, exc, hook)] = place.failures
    assert isinstance(exc, TypeError)
    assert str(exc).startswith(f"{name} must return ")
    assert hook == name


@pytest.mark.parametrize("name", ["on_host", "on_header"])
def test_finer_hooks_cannot_accept(setting: Make, name: str) -> None:
    place = setting({name: lambda *args: Accept(user=7)})
    assert place.ask().status == 500
    assert isinstance(place.failures[0][1], TypeError)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        StopIteration(7),
        TimeoutError(),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
)
def test_what_a_hook_raises_is_reported_and_answered_with_500(
    setting: Make, error: BaseException, is_async: bool
) -> None:
    def plain(request: Request) -> None:
        raise error

    async def awaited(request: Request) -> None:
        raise error

    place = setting({"on_request": awaited if is_async else plain})
    assert place.ask().status == 500
    place.door.close()
    [(request, exc, hook)] = place.failures
    assert (request.path, hook) == ("/chat", "on_request")
    chain = (exc, exc.__cause__)
    # A coroutine cannot raise StopIteration (PEP 479); and that somebody was cancelled is no order to stop.
    assert error in chain or isinstance(exc.__cause__, type(error))
    assert isinstance(exc, Exception) != isinstance(error, KeyboardInterrupt | SystemExit)


def test_log_of_an_answer_that_fails_does_not_show_the_decision(setting: Make) -> None:
    def broken() -> None:
        raise ValueError("of the engine's")

    place = setting({"on_request": lambda request: Accept("a", user="alice")}, pool=(1, 1))
    exchange = FakeExchange()
    exchange.on_accept = broken
    place.door.on_request(exchange)  # type: ignore[arg-type]
    assert exchange.status == 500
    [(_, exc, _)] = place.failures
    shown = "".join(traceback.format_exception(exc))
    assert "of the engine's" in shown
    assert "alice" not in shown and "StopIteration" not in shown


def test_failure_of_a_hook_leaves_nothing_behind(setting: Make) -> None:
    place = setting({"on_request": lambda request: 1 / 0})
    exchange = place.ask()
    assert exchange.status == 500
    place.door.close()
    ref = weakref.ref(exchange)
    place.failures.clear()
    del exchange
    gc.collect()
    assert ref() is None


# On which thread


def where(names: list[str]) -> Any:
    return lambda request: names.append(threading.current_thread().name)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ({}, "unlimitedws-pool-1"),
        ({"pool": (1, 1)}, "unlimitedws-pool-1"),
        ({"pool": (2, 1)}, "MainThread"),
        ({"request_workers": 0}, "MainThread"),
    ],
    ids=["inline", "one", "pool", "none"],
)
def test_plain_hook_runs_where_it_holds_nobody_up(setting: Make, mode: dict[str, Any], expected: str) -> None:
    names: list[str] = []
    assert setting({"on_request": where(names)}, **mode).ask().status == 101
    assert names == [expected]


def test_hooks_take_half_of_the_pools_threads_and_then_others(setting: Make) -> None:
    names: list[str] = []
    leave, entered = threading.Event(), threading.Semaphore(0)

    def slow(request: Request) -> None:
        names.append(threading.current_thread().name)
        entered.release()
        assert leave.wait(PATIENCE)

    place = setting({"on_request": slow}, pool=(4, 4), request_workers=3)
    exchanges = [FakeExchange() for _ in range(5)]
    threads = [
        threading.Thread(target=place.door.on_request, args=(exchange,), name="of the pool", daemon=True)
        for exchange in exchanges
    ]
    for thread in threads:
        thread.start()
        assert entered.acquire(timeout=PATIENCE)
    assert names[:2] == ["of the pool"] * 2
    assert sorted(names[2:]) == [f"unlimitedws-pool-{number}" for number in (1, 2, 3)]
    leave.set()
    for thread, exchange in zip(threads, exchanges, strict=True):
        thread.join(PATIENCE)
        assert exchange.answered.wait(PATIENCE)
    # And again, when they have returned.
    names.clear()
    assert place.ask().status == 101
    assert names == ["MainThread"]


def test_no_thread_is_started_before_there_is_work_for_it(setting: Make) -> None:
    place = setting(keep_request=True)
    assert place.ask().status == 101
    assert place.door.threads() == set()

    async def on_request(request: Request) -> None:
        assert threading.current_thread().name == "unlimitedws-async"

    place.hooks["on_request"] = on_request
    assert place.ask().status == 101
    assert [thread.name for thread in place.door.threads()] == ["unlimitedws-async"]
    place.door.close()
    assert not place.failures


def test_plain_function_that_returns_an_awaitable_is_awaited(setting: Make) -> None:
    async def decide() -> Reject:
        assert threading.current_thread().name == "unlimitedws-async"
        return Reject(401)

    class Caller:
        async def __call__(self, request: Request) -> Reject:
            return await decide()

    for hook in (lambda request: decide(), Caller(), partial(lambda extra, request: decide(), 1)):
        assert setting({"on_request": hook}).ask().status == 401


def test_coroutine_functions_are_those_that_inspect_takes_for_such() -> None:
    class Hooks:
        async def waits(self, request: Request) -> None: ...

        def plain(self, request: Request) -> None: ...

        async def __call__(self, request: Request) -> None: ...

    async def waits(request: Request) -> None: ...

    def plain(request: Request) -> None: ...

    @functools.wraps(waits)
    def wrapped(request: Request) -> Any:
        return waits(request)

    hooks = [Hooks().waits, Hooks().plain, Hooks(), waits, plain, wrapped, print, [].append, Request]
    if sys.version_info >= (3, 12):
        hooks.append(inspect.markcoroutinefunction(lambda request: waits(request)))
        marked = type("Marked", (), {"hook": inspect.markcoroutinefunction(lambda self, request: waits(request))})
        hooks.append(marked().hook)
    for hook in hooks:
        for func in (hook, partial(hook, 1)):
            assert _is_async(func) is inspect.iscoroutinefunction(func), func
    assert [_is_async(hook) for hook in hooks[:6]] == [True, False, False, True, False, False]


def test_more_requests_than_may_wait_are_refused(setting: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers_module, "_MAX_JOBS", 2)
    entered, leave = threading.Event(), threading.Event()

    def slow(request: Request) -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    place = setting({"on_request": slow}, request_workers=1)
    at_work = place.ask()
    assert entered.wait(PATIENCE)
    waiting = [place.ask(), place.ask()]
    late = place.ask()
    assert late.status == 503
    assert late.response is not None and b"Retry-After: 1\r\n" in late.response[1]
    leave.set()
    assert [one.status for one in (at_work, *waiting)] == [101, 101, 101]


def test_more_coroutines_than_may_run_are_refused(setting: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers_module, "_MAX_AWAITED", 1)
    entered, leave = threading.Event(), threading.Event()

    async def slow(request: Request) -> None:
        entered.set()
        while not leave.is_set():
            await asyncio.sleep(0.001)

    place = setting({"on_request": slow})
    first = place.ask()
    assert entered.wait(PATIENCE)
    assert place.ask().status == 503

    # Also where it is known to be one only when it has been called; and then it is not left unawaited.
    place.hooks["on_request"] = lambda request: slow(request)
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        assert place.ask().status == 503
        place.door.helpers._pool.close()  # type: ignore[union-attr]
        gc.collect()
    assert not complaints
    leave.set()
    assert first.status == 101


def test_coroutines_that_wait_for_their_thread_count_among_those_that_run(
    setting: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers_module, "_MAX_AWAITED", 3)
    entered, leave = threading.Event(), threading.Event()

    async def blocks(request: Request) -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    place = setting({"on_request": blocks})
    first = place.ask()
    assert entered.wait(PATIENCE)
    waiting = [place.ask(), place.ask()]
    assert place.ask().status == 503
    leave.set()
    assert [one.status for one in (first, *waiting)] == [101, 101, 101]
    # Their places are free again, also for a request that has a coroutine behind another.
    monkeypatch.setattr(helpers_module, "_MAX_AWAITED", 1)
    place.hooks["on_host"] = recording([], "on_host", None, True)
    for _ in range(3):
        assert place.ask().status == 101
    assert len(place.door.helpers._asyncs) == 0  # type: ignore[arg-type]


def test_hook_is_not_run_for_a_client_that_has_gone_while_it_waited(setting: Make) -> None:
    entered, leave = threading.Event(), threading.Event()
    paths: list[str] = []

    def slow(request: Request) -> None:
        paths.append(request.path)
        entered.set()
        assert leave.wait(PATIENCE)

    place = setting({"on_request": slow}, request_workers=1)
    first = place.ask()
    assert entered.wait(PATIENCE)
    gone = place.ask(HEAD.replace(b"/chat", b"/gone"))
    gone.pending = False
    leave.set()
    assert first.status == 101
    assert place.ask(HEAD.replace(b"/chat", b"/last")).status == 101
    assert paths == ["/chat", "/last"]


def test_nobody_else_is_asked_about_a_client_that_has_gone_meanwhile(setting: Make) -> None:
    asked, left, returned = threading.Event(), threading.Event(), threading.Event()
    hosts: list[str] = []

    async def on_request(request: Request) -> None:
        asked.set()
        while not left.is_set():
            await asyncio.sleep(0.001)
        returned.set()

    async def on_host(host: str) -> None:
        hosts.append(host)

    place = setting({"on_request": on_request, "on_host": on_host})
    exchange = place.ask()
    assert asked.wait(PATIENCE)
    exchange.pending = False
    left.set()
    assert returned.wait(PATIENCE)
    assert place.ask(HEAD.replace(b"example.org", b"another")).status == 101
    place.door.close()
    assert hosts == ["another"]


def test_coroutine_is_cancelled_at_the_deadline(setting: Make) -> None:
    cancelled = threading.Event()

    async def slow(request: Request) -> None:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    place = setting({"on_request": slow}, request_timeout=0.02)
    assert place.ask().status == 503
    assert cancelled.wait(PATIENCE)
    assert not place.failures


def test_deadline_is_one_for_all_hooks_together(setting: Make) -> None:
    async def slow(*args: str) -> None:
        await asyncio.sleep(0.02)

    place = setting({"on_header": slow}, request_timeout=0.05)
    many = b"".join(b"X-%d: 1\r\n" % i for i in range(50))
    begin = time.monotonic()
    assert place.ask(HEAD[:-2] + many + b"\r\n").status == 503
    assert time.monotonic() - begin < 0.5


def test_closing_cancels_what_is_awaited_and_waits_for_the_rest(setting: Make) -> None:
    entered, leave, ended = threading.Semaphore(0), threading.Event(), threading.Event()

    async def forever(request: Request) -> None:
        entered.release()
        await asyncio.sleep(1000)

    def slow(request: Request) -> None:
        entered.release()
        assert leave.wait(PATIENCE)
        ended.set()

    place = setting({"on_request": forever})
    awaited = place.ask()
    place.hooks["on_request"] = slow
    place.ask()
    for _ in range(2):
        assert entered.acquire(timeout=PATIENCE)
    closer = threading.Thread(target=place.door.close)
    closer.start()
    assert awaited.status == 503
    assert closer.is_alive()
    leave.set()
    closer.join(PATIENCE)
    assert ended.is_set() and not closer.is_alive()
    assert not place.failures
    # And nobody else is let in.
    assert place.ask().status == 503
    place.hooks["on_request"] = forever
    assert place.ask().status == 503


def test_asyncio_is_imported_for_those_who_use_it_only() -> None:
    program = (
        "import sys, unlimitedws\n"
        "with unlimitedws.NewServer('127.0.0.1:0') as server:\n"
        "    server.on_request = lambda request: None\n"
        "assert 'asyncio' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")


# Routes


def test_route_is_found_by_its_path_and_the_others_get_426(setting: Make) -> None:
    place = setting()
    place.rules.routes.add("/healthz", lambda request: f"ok {request.query}")
    exchange = place.get("/healthz?x=1")
    assert exchange.status == 200
    assert exchange.response is not None and exchange.response[1].endswith(b"\r\n\r\nok x=1")
    for path in ("/", "/healthz/", "/Healthz", "/healthz%20", "//healthz"):
        exchange = place.get(path)
        assert exchange.status == 426
        assert exchange.response is not None
        head, _, body = exchange.response[1].partition(b"\r\n\r\n")
        assert b"\r\nUpgrade: websocket" in head and b"\r\nConnection: close, Upgrade\r\n" in head
        assert b"\r\nContent-Length: %d\r\n" % len(body) in head
    # They need no thread.
    assert len(place.door.threads()) == 1


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("answer", [None, 200, Accept(), {"a": 1}])
def test_handler_that_answers_nothing_sensible_is_500(setting: Make, answer: Any, is_async: bool) -> None:
    place = setting()
    place.rules.routes.add("/x", recording([], "x", answer, is_async))
    assert place.get("/x").status == 500
    place.door.close()
    [(request, exc, hook)] = place.failures
    assert isinstance(exc, TypeError) and "route /x must return Response, str or bytes" in str(exc)
    assert (request.path, hook) == ("/x", "route /x")


# The asyncio thread


@pytest.fixture
def fatal() -> list[BaseException]:
    return []


@pytest.fixture
def asyncs(fatal: list[BaseException]) -> Iterator[AsyncThread]:
    thread = AsyncThread(fatal.append)
    yield thread
    if thread.thread.is_alive():
        thread.close()
    thread.thread.join(PATIENCE)
    assert not thread.thread.is_alive()


class Outcome:
    def __init__(self) -> None:
        self._there = threading.Event()
        self._value: Any = None

    def __call__(self, result: object, error: BaseException | None) -> None:
        self._value = result, error
        self._there.set()

    def get(self) -> Any:
        assert self._there.wait(PATIENCE)
        return self._value


def test_what_is_awaited_is_handed_over(asyncs: AsyncThread) -> None:
    async def seven() -> int:
        return 7

    outcome = Outcome()
    asyncs.submit(seven, PATIENCE, outcome)
    assert outcome.get() == (7, None)


def test_being_cancelled_by_somebody_else_is_an_error_and_not_a_deadline(asyncs: AsyncThread) -> None:
    async def cancelled() -> None:
        task = asyncio.ensure_future(asyncio.sleep(1000))
        task.cancel()
        await task

    outcome = Outcome()
    asyncs.submit(cancelled, PATIENCE, outcome)
    _, error = outcome.get()
    assert isinstance(error, RuntimeError) and not isinstance(error, Late)
    assert isinstance(error.__cause__, asyncio.CancelledError)


def test_exit_of_a_task_of_the_applications_own_stops_the_server_and_not_the_thread(
    asyncs: AsyncThread, fatal: list[BaseException]
) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def start() -> object:
        return asyncio.ensure_future(leave())

    outcome, second = Outcome(), Outcome()
    asyncs.submit(start, PATIENCE, outcome)
    outcome.get()
    asyncs.submit(partial(asyncio.sleep, 0, 7), PATIENCE, second)
    assert second.get() == (7, None)
    assert [type(exc) for exc in fatal] == [SystemExit]


def test_task_that_does_not_let_itself_be_cancelled_is_waited_for(asyncs: AsyncThread) -> None:
    entered, stubborn, leave = threading.Event(), threading.Event(), threading.Event()

    async def stay() -> int:
        entered.set()
        while not leave.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                stubborn.set()
        return 7

    outcome = Outcome()
    asyncs.submit(stay, PATIENCE, outcome)
    assert entered.wait(PATIENCE)
    asyncs.close()
    assert stubborn.wait(PATIENCE)
    assert asyncs.thread.is_alive()
    leave.set()
    assert outcome.get() == (7, None)


@pytest.mark.filterwarnings("error")
def test_what_was_submitted_and_not_begun_ends_with_the_thread(asyncs: AsyncThread) -> None:
    entered, leave = threading.Event(), threading.Event()

    async def block() -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    first, second = Outcome(), Outcome()
    asyncs.submit(block, PATIENCE, first)
    assert entered.wait(PATIENCE)
    asyncs.submit(partial(asyncio.sleep, 1000), PATIENCE, second)
    asyncs.close()
    leave.set()
    assert first.get() == (None, None)
    # Who waits for it would wait for ever.
    assert isinstance(second.get()[1], Late)
    asyncs.thread.join(PATIENCE)
    gc.collect()


def test_what_nobody_wants_any_more_is_cancelled(asyncs: AsyncThread) -> None:
    wanted = threading.Event()
    wanted.set()
    kept, dropped, later = Outcome(), Outcome(), Outcome()
    asyncs.submit(partial(asyncio.sleep, 0.6, 7), PATIENCE, kept, lambda: True)
    asyncs.submit(partial(asyncio.sleep, 1000), 2000, dropped, wanted.is_set)
    wanted.clear()
    assert isinstance(dropped.get()[1], Late)
    assert kept.get() == (7, None)
    # It looks again when there is something to look at again.
    while asyncs._looking is not None:
        time.sleep(0.01)
    asyncs.submit(partial(asyncio.sleep, 1000), 2000, later, wanted.is_set)
    assert isinstance(later.get()[1], Late)


# The roll


@pytest.fixture
def roll() -> Roll:
    return Roll(5.0)


def enter(roll: Roll, user: object, session: object = None) -> FakeConn:
    about = About(roll, user, session)
    assert roll.admit(about, time.monotonic())
    conn = FakeConn(about)
    about.conn = conn  # type: ignore[assignment]
    roll.settle(about)
    return conn


def test_disconnect_ends_those_who_are_meant_and_counts_them(roll: Roll) -> None:
    a1, a2, b1 = enter(roll, "a", 1), enter(roll, "a", 2), enter(roll, "b", 1)
    assert roll.disconnect("a", 1, 3000, "bye") == 1
    assert (a1.ended, a2.ended, b1.ended) == ([(CloseCause.REVOKED, 3000, "bye")], [], [])
    assert roll.disconnect(None, 1, 4001, "") == 1
    assert (a2.ended, b1.ended) == ([], [(CloseCause.REVOKED, 4001, "")])
    assert roll.disconnect("a", None, 3000, "") == 1
    assert roll.disconnect("a", None, 3000, "") == 0
    assert roll.disconnect("nobody", None, 3000, "") == 0
    for conn in (a1, a2, b1):
        conn.over()
    assert len(roll) == 0


def test_roll_of_many_of_one_user_is_empty_when_they_have_gone(roll: Roll) -> None:
    conns = [enter(roll, "a", i % 3) for i in range(10)]
    assert len(roll) == 4
    for conn in conns[:9]:
        conn.over()
    assert roll.disconnect("a", None, 3000, "") == 1
    assert [len(conn.ended) for conn in conns] == [0] * 9 + [1]
    conns[9].over()
    assert len(roll) == 0


def test_user_without_a_session_and_session_without_a_user_are_found(roll: Roll) -> None:
    user, session = enter(roll, "a"), enter(roll, None, "s")
    assert roll.disconnect("a", None, 3000, "") == 1
    assert roll.disconnect(None, "s", 3000, "") == 1
    assert len(user.ended) == len(session.ended) == 1


def test_connection_that_is_closing_anyway_is_not_counted(roll: Roll) -> None:
    conn = enter(roll, "a")
    conn.is_open = False
    assert roll.disconnect("a", None, 3000, "") == 0
    assert conn.ended == []


def test_who_was_disconnected_while_his_request_was_decided_on_does_not_get_in(roll: Roll) -> None:
    since = time.monotonic()
    assert roll.disconnect("a", None, 3000, "") == 0
    assert not roll.admit(About(roll, "a", "s"), since)
    assert not roll.identify(FakeConn(), "a", None, 0, since)  # type: ignore[arg-type]
    assert roll.admit(About(roll, "b", "s"), since)
    # His next request is another matter.
    assert roll.admit(About(roll, "a", "s"), time.monotonic())


def test_what_was_disconnected_is_remembered_no_longer_than_a_decision_takes(roll: Roll) -> None:
    roll.window = 0.0
    for user in range(100):
        roll.disconnect(user, None, 3000, "")
        time.sleep(0)
    assert len(roll._recent) <= 2


def test_longer_decision_is_remembered_for_and_one_that_took_too_long_lets_nobody_in() -> None:
    roll = Roll(0.02)
    roll.widen(5.0)
    roll.widen(0.01)
    since = time.monotonic()
    roll.disconnect("a", None, 3000, "")
    time.sleep(0.05)
    roll.disconnect("b", None, 3000, "")
    assert not roll.admit(About(roll, "a"), since)
    assert roll.admit(About(roll, "c"), since)
    # Who was disconnected since then, nobody knows.
    assert not roll.admit(About(roll, "c"), since - 5.0)


@pytest.mark.parametrize(
    ("user", "session", "is_met"),
    [
        ("a", None, [True, True, False, False]),
        (None, 1, [True, False, True, False]),
        ("a", 1, [True, False, False, False]),
    ],
)
def test_who_was_disconnected_is_known_by_user_by_session_and_by_both(
    roll: Roll, user: Any, session: Any, is_met: list[bool]
) -> None:
    since = time.monotonic()
    roll.disconnect("x", "y", 3000, "")
    roll.disconnect(user, session, 3000, "")
    roll.disconnect("x", None, 3000, "")
    who = [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert [not roll.admit(About(roll, *one), since) for one in who] == is_met


def test_one_who_is_disconnected_again_is_remembered_from_then(roll: Roll) -> None:
    roll.disconnect("a", None, 3000, "")
    roll.disconnect("b", None, 3000, "")
    since = time.monotonic()
    roll.disconnect("a", None, 3000, "")
    assert list(roll._recent) == [("b", None), ("a", None)]
    assert not roll.admit(About(roll, "a"), since)
    assert roll.admit(About(roll, "b"), since)


def test_who_is_disconnected_between_the_decision_and_the_handshake_is_ended(setting: Make) -> None:
    place = setting({"on_request": lambda request: Accept(user="a")}, pool=(2, 1))
    exchange = FakeExchange()
    counts: list[int] = []

    def meanwhile() -> None:
        assert exchange.conn is not None
        exchange.conn.is_open = False  # The 101 is not written yet.
        counts.append(place.roll.disconnect("a", None, 3000, "bye"))
        exchange.conn.is_open = True

    exchange.on_accept = meanwhile
    place.door.on_request(exchange)  # type: ignore[arg-type]
    assert counts == [1]
    assert exchange.conn is not None
    assert exchange.conn.ended == [(CloseCause.REVOKED, 3000, "bye")]


def test_who_was_revoked_meanwhile_gets_403(setting: Make) -> None:
    place = setting({})

    def on_request(request: Request) -> Accept:
        place.roll.disconnect("a", None, 3000, "")
        return Accept(user="a")

    place.hooks["on_request"] = on_request
    assert place.ask().status == 403
    assert len(place.roll) == 0


@pytest.mark.parametrize("answered", [True, False])
def test_client_that_has_gone_before_it_was_let_in_leaves_nothing(setting: Make, answered: bool) -> None:
    place = setting({"on_request": lambda request: Accept(user="a", session="s")}, pool=(2, 1))
    exchange = FakeExchange()
    if answered:
        # It is over before the door hears that it was open.
        exchange.on_accept = lambda: exchange.conn and exchange.conn.over()
    else:
        exchange.on_accept = lambda: setattr(exchange, "pending", False)
    place.door.on_request(exchange)  # type: ignore[arg-type]
    assert len(place.roll) == 0
    assert exchange.conn is not None
    assert exchange.conn._about.conn is None


def test_identify_gives_a_connection_another_user(roll: Roll) -> None:
    conn = enter(roll, "a", "s")
    about = conn._about
    assert roll.identify(conn, "b", None, 500)  # type: ignore[arg-type]
    assert conn._about is about
    assert (about.user, about.session, conn.expires_ms) == ("b", None, 500)
    assert roll.disconnect("a", None, 3000, "") == roll.disconnect(None, "s", 3000, "") == 0
    assert roll.disconnect("b", None, 3000, "") == 1
    conn.over()
    assert len(roll) == 0


def test_identify_says_of_a_connection_of_nobody_who_it_is(roll: Roll) -> None:
    conn = FakeConn()
    assert roll.identify(conn, "a", "s", 0)  # type: ignore[arg-type]
    assert roll.disconnect(None, "s", 3000, "") == 1
    conn.over()
    assert len(roll) == 0


@pytest.mark.parametrize("known", [True, False])
def test_identify_of_a_connection_that_is_over_changes_nothing(roll: Roll, known: bool) -> None:
    conn = enter(roll, "a") if known else FakeConn()
    conn.is_open = False
    assert not roll.identify(conn, "b", None, 0)  # type: ignore[arg-type]
    assert (conn._about and conn._about.user) == ("a" if known else None)
    conn.over()
    assert not roll.identify(conn, "b", None, 0)  # type: ignore[arg-type]
    assert len(roll) == 0


def test_connection_of_another_server_is_not_identified(roll: Roll) -> None:
    conn, other = enter(roll, "a"), Roll(5.0)
    with pytest.raises(ValueError, match="another server"):
        other.identify(conn, "b", None, 0)  # type: ignore[arg-type]
    assert (conn._about.user, len(other)) == ("a", 0)
    assert roll.disconnect("a", None, 3000, "") == 1


def test_roll_stays_right_however_many_use_it_at_once(roll: Roll) -> None:
    stop = threading.Event()
    problems: list[BaseException] = []

    def come_and_go(number: int) -> None:
        try:
            for i in range(300):
                about = About(roll, i % 5, (number, i % 3))
                if not roll.admit(about, time.monotonic() + 1):
                    continue
                conn = FakeConn(about)
                about.conn = conn  # type: ignore[assignment]
                roll.settle(about)
                roll.identify(conn, i % 7, None, 0)  # type: ignore[arg-type]
                conn.over()
        except BaseException as exc:
            problems.append(exc)

    def disconnect() -> None:
        while not stop.is_set():
            for user in range(7):
                roll.disconnect(user, None, 3000, "")

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    revoker = threading.Thread(target=disconnect)
    for thread in (*threads, revoker):
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    stop.set()
    revoker.join(PATIENCE)
    assert not problems
    assert len(roll) == 0


def test_time_until_an_expiry_is_never_nothing_and_never_more_than_the_engine_counts() -> None:
    now = time.time()
    assert milliseconds_until(None) == 0
    assert milliseconds_until(None, 5.0) == 0
    assert milliseconds_until(now - 100) == 1
    assert 90_000 < milliseconds_until(now + 100) <= 100_000
    assert 100_000 < milliseconds_until(now + 100, 10.0) <= 110_000
    assert milliseconds_until(1e300) == 2**62
    assert milliseconds_until(-1e300) == 1


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_close_code_that_may_not_be_sent_is_refused_before_anybody_is_looked_for(code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code} may not be sent"):
        check_close(code, "")


def test_close_reason_that_does_not_fit_is_refused() -> None:
    check_close(4999, "é" * 61)
    with pytest.raises(ValueError, match="at most 123 bytes, not 124"):
        check_close(3000, "é" * 62)
    for wrong in (("3000", ""), (True, ""), (3000, b"")):
        with pytest.raises(TypeError):
            check_close(*wrong)  # type: ignore[arg-type]


# The gate


class FirstMessage(Auth):
    """Takes names for credentials."""

    timeout = 2.0

    def __init__(self, is_async: bool = False) -> None:
        super().__init__(Accept(authenticated=False))
        self.is_async = is_async
        self.wait: float = 0
        self.checked: list[str | bytes] = []

    @property
    def first_message(self) -> FirstMessage:
        return self

    def check_message(self, conn: Any, message: str | bytes) -> Any:
        self.checked.append(message)
        accept = Accept(user=message) if message in ("alice", "bob") else None
        if not self.is_async:
            return accept

        async def awaited() -> Accept | None:
            await asyncio.sleep(self.wait)
            return accept

        return awaited()


class Inside:
    """A stranger before a gate, and what the application got to see."""

    def __init__(self, auth: FirstMessage, roll: Roll, helpers: Helpers) -> None:
        self.auth = auth
        self.seen: list[Any] = []
        self.hooks: dict[str, Any] = {
            "on_connect": lambda conn: self.seen.append(("on_connect", conn._about.user)),
            "on_message": lambda conn, message: self.seen.append(message),
            "on_close": lambda conn: self.seen.append("on_close"),
        }
        self.gate: Any = Gate(self.hooks, roll, helpers)
        about = About(roll)
        about.stranger = Stranger(auth, Accept())
        assert roll.admit(about, time.monotonic())
        self.conn = FakeConn(about)
        about.conn = self.conn  # type: ignore[assignment]
        roll.settle(about)
        self.gate.on_connect(self.conn)

    def say(self, message: str | bytes) -> None:
        """A message has come; what has to be awaited for it has been when this returns."""
        self.gate.on_message(self.conn, message)
        if self.gate._attempts:
            assert self.conn.recalled.wait(PATIENCE)
            self.conn.recalled.clear()
            self.gate.on_recall(self.conn)


@pytest.fixture
def helpers(fatal: list[BaseException]) -> Iterator[Helpers]:
    made = Helpers(1, fatal.append)
    yield made
    made.close()


@pytest.mark.parametrize("is_async", [False, True])
def test_stranger_has_no_callback_before_it_is_somebody(roll: Roll, helpers: Helpers, is_async: bool) -> None:
    inside = Inside(FirstMessage(is_async), roll, helpers)
    assert inside.seen == []
    inside.say("alice")
    assert inside.seen == [("on_connect", "alice")]
    inside.say("hello")
    inside.gate.on_close(inside.conn)
    assert inside.seen == [("on_connect", "alice"), "hello", "on_close"]
    inside.conn.over()
    assert len(roll) == 0


@pytest.mark.parametrize("is_async", [False, True])
def test_stranger_that_nobody_knows_is_closed_with_3000_unseen(
    roll: Roll, helpers: Helpers, is_async: bool
) -> None:
    inside = Inside(FirstMessage(is_async), roll, helpers)
    inside.say("mallory")
    assert inside.conn.ended == [(CloseCause.UNAUTHENTICATED, 3000, "")]
    # It does not get a second guess.
    inside.say("alice")
    inside.gate.on_close(inside.conn)
    assert inside.seen == []
    assert inside.auth.checked == ["mallory"]


def test_verifier_that_is_too_slow_admits_nobody(roll: Roll, helpers: Helpers) -> None:
    auth = FirstMessage(True)
    auth.wait, auth.timeout = 1000, 0.01  # type: ignore[misc]
    inside = Inside(auth, roll, helpers)
    inside.say("alice")
    assert inside.conn.ended == [(CloseCause.UNAUTHENTICATED, 3000, "")]
    assert inside.seen == []


def test_stranger_that_is_disconnected_while_it_is_recognized_does_not_get_in(
    roll: Roll, helpers: Helpers
) -> None:
    auth = FirstMessage()

    def check_message(conn: Any, message: str | bytes) -> Accept:
        roll.disconnect(message, None, 3000, "")
        return Accept(user=message)

    auth.check_message = check_message  # type: ignore[method-assign]
    inside = Inside(auth, roll, helpers)
    inside.say("alice")
    assert inside.conn.ended == [(CloseCause.REVOKED, 3000, "")]
    assert inside.seen == []


@pytest.mark.parametrize("is_async", [False, True])
def test_error_of_a_verifier_comes_out_of_the_callback(roll: Roll, helpers: Helpers, is_async: bool) -> None:
    auth = FirstMessage()

    def broken(conn: Any, message: str | bytes) -> Any:
        async def fail() -> None:
            raise ZeroDivisionError

        if is_async:
            return fail()
        raise ZeroDivisionError

    auth.check_message = broken  # type: ignore[method-assign]
    inside = Inside(auth, roll, helpers)
    with pytest.raises(ZeroDivisionError):
        inside.say("alice")
    assert inside.seen == []


def test_stranger_that_closes_behind_its_first_message_is_somebody(roll: Roll, helpers: Helpers) -> None:
    inside = Inside(FirstMessage(), roll, helpers)
    # As the engine has it: nothing more comes, and what has come is still delivered and answered.
    inside.conn.is_ending = True
    inside.say("alice")
    inside.say("hello")
    inside.gate.on_close(inside.conn)
    assert inside.seen == [("on_connect", "alice"), "hello", "on_close"]


def test_first_message_longer_than_any_credential_is_1009_and_not_looked_at(
    roll: Roll, helpers: Helpers
) -> None:
    auth = FirstMessage()
    auth.max_bytes = 4  # type: ignore[attr-defined]
    inside = Inside(auth, roll, helpers)
    inside.say("alice")
    inside.say("bob")
    assert inside.conn.ended == [(CloseCause.LIMIT, 1009, "")]
    assert (inside.seen, auth.checked) == ([], [])


def test_gate_that_is_shut_waits_for_no_verifier(roll: Roll, helpers: Helpers) -> None:
    auth = FirstMessage(True)
    auth.wait, auth.timeout = 1000, PATIENCE  # type: ignore[misc]
    first, second = Inside(auth, roll, helpers), Inside(auth, roll, helpers)
    first.gate.on_message(first.conn, "alice")
    assert first.conn.is_suspended
    first.gate.shut()
    assert first.conn.recalled.is_set()
    first.gate.on_recall(first.conn)
    second.gate.shut()
    second.say("alice")
    # They are left to the close frame that all get.
    assert first.conn.ended == second.conn.ended == []
    assert first.seen == second.seen == []
    # What the cancelled verifier has to say is nobody's business any more.
    helpers.close()
    assert not first.gate._attempts and not second.gate._attempts


def test_first_message_beyond_what_is_awaited_is_1013(roll: Roll, fatal: list[BaseException]) -> None:
    closed = Helpers(1, fatal.append)
    closed.close()
    inside = Inside(FirstMessage(True), roll, closed)
    inside.say("alice")
    assert inside.conn.ended == [(CloseCause.LIMIT, 1013, "")]
    assert inside.seen == []


def test_verifier_of_a_connection_that_has_been_ended_meanwhile_is_not_awaited(roll: Roll, helpers: Helpers) -> None:
    inside = Inside(FirstMessage(True), roll, helpers)
    inside.conn._suspend = lambda: False  # type: ignore[method-assign]
    inside.say("alice")
    assert not inside.gate._attempts and inside.seen == []


def test_gate_takes_the_place_of_the_hooks_there_are_and_waits_for_messages_anyway(
    roll: Roll, helpers: Helpers
) -> None:
    hooks: dict[str, Any] = {}
    gate = Gate(hooks, roll, helpers)
    assert [gate.callback(name) for name in ("on_connect", "on_read", "on_message", "on_close")] == [
        None,
        None,
        gate.on_message,
        None,
    ]
    hooks["on_read"] = print
    assert (gate.callback("on_message"), gate.callback("on_read")) == (None, gate.on_read)
    hooks.clear()
    hooks["on_fragment"] = print
    assert (gate.callback("on_message"), gate.callback("on_fragment")) == (None, gate.on_fragment)
