"""Ends of a process, over and over, with clients connected: in good time, with nothing on stderr, as was expected.

Owns the scenarios, each a small program and what its clients do. ``make exits N=200`` runs all of them, the suite
(test_exits.py) a few of each. A process is started for every run: what goes wrong at an end goes wrong now and then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

import raw  # noqa: E402 (it is where we have just said)
from fixtures import heed_sigint  # noqa: E402
from library.programs import FORK_IS_FINE  # noqa: E402
from raw import CLOSE, PONG, TEXT, RawClient  # noqa: E402

KINDS = ("NewServer", "DefaultServer")
LIMIT_S = 5.0
"""From what makes the process end to its end."""
PATIENCE_S = 30.0

PRELUDE = """
import sys; sys.path[:0] = [{src!r}]
import asyncio, logging, os, signal, threading, time
import unlimitedws
from unlimitedws import wsutil

# What is logged of a callback that raises is the application's to configure; here it says nothing.
logging.getLogger("unlimitedws").addHandler(logging.NullHandler())
logging.getLogger("unlimitedws").propagate = False

server = unlimitedws.{kind}("127.0.0.1:0", drain_time=0.2)
conns = []

def echo(conn, message):
    conn.send(message)

def ready():
    print(server.local_addr.port, flush=True)

def until_told():
    sys.stdin.readline()
"""

# Every hook that there is, as its name and how it is made to be called.
HOOKS = (
    "on_connect",
    "on_read",
    "on_message",
    "on_fragment",
    "on_close",
    "on_pong",
    "on_drain",
    "on_error",
    "on_request",
    "async on_request",
    "on_host",
    "on_header",
    "auth",
    "route",
    "async route",
)

SET_HOOK = """
def go(*args):
    {deed}

async def go_later(*args):
    await asyncio.sleep(0)
    {deed}

class Auth:
    def check(self, request):
        go()

def raise_for_on_error(*args):
    raise ValueError("for on_error")

def send_much(conn, message):
    # More than the kernel takes for a client that does not read yet.
    conn.send(bytes(16 << 20))

server.on_message = echo
hook = {hook!r}
if hook == "auth":
    server.auth = Auth()
elif hook.endswith("route"):
    server.route("/route", go_later if hook.startswith("async") else go)
elif hook.startswith("async"):
    server.on_request = go_later
else:
    if hook in ("on_read", "on_fragment", "on_error"):
        server.on_message = None
    setattr(server, hook, go)
    if hook == "on_error":
        server.on_message = raise_for_on_error
    elif hook == "on_drain":
        server.on_message = send_much
"""


class Failed(Exception):
    """A run did not go as it had to."""


class Process:
    """A program, its clients, and when it was told to end."""

    def __init__(self, text: str) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self.process = subprocess.Popen(
            [sys.executable, "-W", FORK_IS_FINE, "-c", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=dict(os.environ, PYTHONDEVMODE="0", PYTHONUNBUFFERED="1"),
        )
        self._watchdog = threading.Timer(PATIENCE_S, self.process.kill)
        self._watchdog.start()
        self.clients: list[RawClient] = []
        self.polite: list[RawClient] = []
        self.since = 0.0
        self.port = int(self.hear() or 0)

    def hear(self) -> str:
        """The next line that the program prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def connect(self, **options: object) -> RawClient:
        """A client that answers a close frame in the end; see RawClient."""
        client = RawClient(self.port, **options)  # type: ignore[arg-type]
        self.clients.append(client)
        self.polite.append(client)
        return client

    def rude(self, **options: object) -> RawClient:
        """One that reads nothing any more, and answers nothing."""
        client = self.connect(**options)
        self.polite.remove(client)
        return client

    def attempt(self, data: bytes) -> None:
        """Send something on a connection without waiting for what comes of it."""
        client = self.connect(handshake=False)
        with contextlib.suppress(OSError):
            client.send(data)

    def begin(self) -> None:
        """From here the time runs."""
        self.since = time.monotonic()

    def say(self) -> None:
        """Let the program go on; nearly always to its end."""
        self.begin()
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> tuple[int, float]:
        """Be clients that are told to leave, until the process has ended: its status, and how long that took."""
        with selectors.DefaultSelector() as selector:
            for client in self.polite:
                if client.sock.fileno() >= 0:
                    client.sock.setblocking(False)
                    # It may have come right behind the response.
                    _answer_close(client.sock, client.recv_pending())
                    selector.register(client.sock, selectors.EVENT_READ)
            while self.process.poll() is None:
                for key, _ in selector.select(0.01):
                    if not _answer(key.fileobj):  # type: ignore[arg-type]
                        selector.unregister(key.fileobj)
                        # Its FIN is what the server still waits for.
                        key.fileobj.close()  # type: ignore[union-attr]
        return self.process.returncode, time.monotonic() - self.since

    def complaints(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def close(self) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.wait()
        for client in self.clients:
            client.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._stderr.close()


def _answer(sock: socket.socket) -> bool:
    """Read what there is; answer it where it ends with a close frame. False: there will be nothing more."""
    try:
        data = sock.recv(1 << 20)
    except BlockingIOError:
        return True
    except OSError:
        return False
    _answer_close(sock, data)
    return bool(data)


def _answer_close(sock: socket.socket, data: bytes) -> None:
    """Answer what ends with a close frame."""
    if len(data) >= 4 and data[-4:-2] == b"\x88\x02":
        with contextlib.suppress(OSError):
            sock.send(raw.frame(CLOSE, data[-2:]))


def crowd(process: Process) -> None:
    """Clients in every state: talking, silent, in a handshake, and not reading."""
    talker = process.connect()
    talker.send_frame(TEXT, "x" * 100)
    process.connect()
    process.attempt(raw.request()[:40])
    reader = process.connect(rcvbuf=4096)
    reader.send(raw.frame(TEXT, "y" * 60_000) * 3)


def handshakes(process: Process) -> None:
    """Requests of which each has come to another point."""
    request = raw.request("/somewhere")
    for n in range(8):
        process.attempt(request[: len(request) * (n + 1) // 8])
    process.attempt(b"GET /route HTTP/1.1\r\nHost: here\r\n\r\n")


def talking(process: Process) -> None:
    """Several that send, so that callbacks run."""
    for _ in range(4):
        process.connect().send(raw.frame(TEXT, "work") * 5)


def call(process: Process, hook: str) -> None:
    """Do what has a hook called."""
    if hook.endswith("route"):
        process.attempt(b"GET /route HTTP/1.1\r\nHost: here\r\n\r\n")
        return
    if hook in ("on_request", "async on_request", "on_host", "on_header", "auth"):
        process.attempt(raw.request(headers=[("X-Some", "field")]))
        return
    client = process.connect()
    if hook == "on_close":
        client.send_close()
    elif hook == "on_pong":
        client.send_frame(PONG, b"not asked for")
    elif hook != "on_connect":
        # The end may come before, or in between.
        with contextlib.suppress(OSError, EOFError):
            client.send_frame(TEXT, "hello")
            if hook == "on_drain":
                client.recv_message()


# ---- the scenarios


@dataclass(frozen=True)
class Scenario:
    """A way to end.

    Attributes:
        name: Of the command line.
        body: The program, behind PRELUDE.
        act: What the clients do, up to what ends it.
        statuses: Exit statuses that are right.
        vary: Texts for ``{vary}`` in the body, one run after the other.
    """

    name: str
    body: str
    act: Callable[[Process, int], None]
    statuses: tuple[int, ...] = (0,)
    vary: tuple[str, ...] = field(default=("",))


def _then_say(*acts: Callable[[Process], None]) -> Callable[[Process, int], None]:
    def act(process: Process, number: int) -> None:
        for one in acts:
            one(process)
        process.say()

    return act


def _polite_crowd_and_one_that_is_not(process: Process) -> None:
    crowd(process)
    process.rude()


def _call_hook(process: Process, number: int) -> None:
    process.begin()
    process.connect() if HOOKS[number % len(HOOKS)] in ("on_message", "on_read") else None
    call(process, HOOKS[number % len(HOOKS)])


def _call_hook_and_say(process: Process, number: int) -> None:
    hook = HOOKS[number % len(HOOKS)]
    for _ in range(3):
        call(process, hook)
    # It serves on, whatever has been raised.
    probe = process.connect(handshake=False)
    probe.send(b"GET /probe HTTP/1.1\r\nHost: here\r\n\r\n")
    if not probe.recv_until_eof().endswith(b"fine"):
        raise Failed(f"the server does not answer any more after {hook} raised")
    process.say()


def _forked(process: Process, number: int) -> None:
    client = process.connect()
    process.rude()
    talking(process)
    process.say()
    if process.hear() != "forked":
        raise Failed("the child did not end well")
    client.send_frame(TEXT, "still here")
    if client.recv_message() != "still here":
        raise Failed("the parent does not serve on")
    process.say()


def _forked_among_senders(process: Process, number: int) -> None:
    process.connect()
    process.connect()
    process.say()
    if process.hear() != "forked":
        raise Failed("the child did not end well")
    process.say()


def _fork_in_callback(process: Process, number: int) -> None:
    client = process.connect()
    client.send_frame(TEXT, "fork")
    if client.recv_message() != "0":
        raise Failed("the child did not end well")
    process.say()


def _storm(process: Process, number: int) -> None:
    talking(process)
    process.begin()
    numbers = (signal.SIGTERM, signal.SIGINT) if number % 4 < 2 else (signal.SIGTERM,)

    def blow() -> None:
        end = time.monotonic() + LIMIT_S
        while process.process.poll() is None and time.monotonic() < end:
            for one in numbers:
                process.signal(one)

    threads = [threading.Thread(target=blow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _term(process: Process, number: int) -> None:
    crowd(process)
    process.begin()
    process.signal(signal.SIGTERM)


def _int_twice(process: Process, number: int) -> None:
    silent = process.rude()
    process.begin()
    process.signal(signal.SIGINT)
    silent.recv_close()
    process.signal(signal.SIGINT)


START = "server.start(); ready(); until_told()\n"
RUN = "server.run(ready=ready)\n"
ECHO = "server.on_message = echo\n"
SENDERS = """
@server.on_connect
def keep(conn):
    conns.append(conn)

def send():
    while True:
        for conn in list(conns):
            try:
                conn.send("z" * 50)
            except unlimitedws.ConnectionClosed:
                pass
            except TimeoutError:
                pass

"""
FORK = """
server.start(); ready(); until_told()
pid = os.fork()
if pid == 0:
    {vary}
if os.waitpid(pid, 0)[1] == 0:
    print("forked", flush=True)
until_told()
"""
CHILD_SERVER = (
    "server.stop(); other = unlimitedws.NewServer('127.0.0.1:0'); other.start(); other.stop(); sys.exit(0)"
)

SCENARIOS = (
    Scenario("leave", ECHO + START, _then_say(_polite_crowd_and_one_that_is_not)),
    Scenario("leave-in-handshakes", ECHO + START, _then_say(handshakes)),
    Scenario(
        "leave-in-hooks-of-handshakes",
        "{vary}\nserver.route('/route', lambda request: time.sleep(0.1) or 'slow')\n" + START,
        _then_say(handshakes),
        vary=(
            "server.on_request = lambda request: time.sleep(0.1)",
            "async def later(request): await asyncio.sleep(0.1)\nserver.on_request = later",
            "async def never(request): await asyncio.sleep(1000)\nserver.on_request = never",
        ),
    ),
    Scenario("leave-while-callbacks-sleep", "server.on_message = lambda conn, m: time.sleep(0.2)\n" + START,
             _then_say(talking)),
    Scenario("leave-while-callbacks-block", "server.on_message = lambda conn, m: threading.Event().wait()\n" + START,
             _then_say(talking)),
    Scenario("leave-while-callbacks-compute", "def work(conn, m):\n    while True: pass\nserver.on_message = work\n"
             + START, _then_say(talking)),
    Scenario("leave-while-threads-send", SENDERS + ECHO
             + "for _ in range(4): threading.Thread(target=send, daemon=True).start()\n" + START,
             _then_say(talking, crowd)),
    Scenario("leave-while-another-stops", ECHO + START
             + "threading.Thread(target=server.stop, daemon=True).start()\n", _then_say(talking)),
    Scenario("stop", ECHO + START + "server.stop()\nassert threading.active_count() == 1\n", _then_say(crowd)),
    Scenario("drain", ECHO + START + "server.drain(0.1)\nassert threading.active_count() == 1\n", _then_say(crowd)),
    Scenario("sys-exit-in-a-hook", SET_HOOK.replace("{deed}", "sys.exit(7)") + RUN, _call_hook, (7,)),
    Scenario("keyboard-interrupt-in-a-hook", SET_HOOK.replace("{deed}", "raise KeyboardInterrupt")
             + "try:\n    server.run(ready=ready)\nexcept KeyboardInterrupt:\n    sys.exit(5)\n", _call_hook, (5,)),
    Scenario("exception-in-a-hook", SET_HOOK.replace("{deed}", "raise ValueError('raised')")
             + "server.route('/probe', lambda request: 'fine')\n" + START + "server.stop()\n", _call_hook_and_say),
    Scenario("sys-exit-when-ready", ECHO + "def leave():\n    ready(); until_told(); sys.exit(3)\n"
             "server.run(ready=leave)\n", _then_say(talking), (3,)),
    Scenario("fork", ECHO + FORK, _forked,
             vary=("os._exit(0)", "sys.exit(0)", "server.stop(); sys.exit(0)", CHILD_SERVER)),
    Scenario("fork-while-threads-send", SENDERS + ECHO
             + "for _ in range(2): threading.Thread(target=send, daemon=True).start()\n"
             + FORK, _forked_among_senders,
             vary=("os._exit(0)", "sys.exit(0)")),
    Scenario("fork-in-a-callback", "def fork(conn, message):\n    pid = os.fork()\n    if pid == 0: os._exit(0)\n"
             "    conn.send(str(os.waitpid(pid, 0)[1]))\nserver.on_message = fork\n" + START, _fork_in_callback),
    # At the very end Python puts the default handlers back, and then a signal kills. Until then the handlers are those
    # of before: a function without a frame, since of others there would be as many as signals.
    Scenario("signal-storm", "{vary}\nimport operator\n"
             "for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, operator.is_)\n" + RUN,
             _storm, (0, -signal.SIGTERM, -signal.SIGINT),
             vary=("server.on_message = echo", "server.on_message = lambda conn, message: time.sleep(0.3)")),
    Scenario("sigterm-drains", ECHO + RUN, _term),
    Scenario("sigint-twice", ECHO + RUN, _int_twice),
)


class Outcome(NamedTuple):
    """How one run went."""

    seconds: float
    problem: str


def run_once(scenario: Scenario, number: int) -> Outcome:
    """Run a scenario once; number chooses the kind of server and the variant."""
    kind = KINDS[number % len(KINDS)]
    number //= len(KINDS)
    body = scenario.body.replace("{vary}", scenario.vary[number % len(scenario.vary)])
    body = body.replace("{hook!r}", repr(HOOKS[number % len(HOOKS)]))
    process = Process(PRELUDE.format(src=str(ROOT / "src"), kind=kind) + body)
    what = f"{scenario.name}, {kind}, variant {number}"
    try:
        scenario.act(process, number)
        status, seconds = process.wait()
    except (Failed, OSError, AssertionError) as exc:
        process.process.kill()
        process.process.wait()
        return Outcome(0.0, f"{what}: {exc!r}; stderr: {process.complaints()!r}")
    finally:
        complaints = process.complaints()
        process.close()
    wrong = []
    if status not in scenario.statuses:
        wrong.append(f"status {status}")
    if complaints:
        wrong.append(f"stderr {complaints!r}")
    if seconds > LIMIT_S:
        wrong.append(f"{seconds:.1f} s")
    return Outcome(seconds, f"{what}: {', '.join(wrong)}" if wrong else "")


def run_many(scenario: Scenario, runs: int, at_once: int) -> Iterator[Outcome]:
    """Run a scenario so often, some at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(lambda number: run_once(scenario, number), range(runs))


def main(arguments: list[str] | None = None) -> int:
    """Run all scenarios, or some, and print a table. 0: every run was as it had to be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200, help="of each scenario")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("names", nargs="*", help="scenarios; all of them without")
    options = parser.parse_args(arguments)
    known = {scenario.name: scenario for scenario in SCENARIOS}
    unknown = set(options.names) - known.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    failed = 0
    heed_sigint()
    print(f"{'scenario':<32} {'runs':>5} {'wrong':>6} {'median s':>9} {'longest s':>10}")
    for scenario in [known[name] for name in options.names] or SCENARIOS:
        outcomes = list(run_many(scenario, options.runs, options.at_once))
        times = sorted(outcome.seconds for outcome in outcomes)
        problems = Counter(outcome.problem for outcome in outcomes if outcome.problem)
        failed += problems.total()
        print(
            f"{scenario.name:<32} {len(outcomes):>5} {problems.total():>6} {times[len(times) // 2]:>9.2f} "
            f"{times[-1]:>10.2f}",
            flush=True,
        )
        for problem, count in problems.items():
            print(f"    {count} x {problem}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
