"""Of a connection that has come and gone no block of memory stays, in whatever way it was served, used and ended.

Counted by the interpreter, to the block: resident memory grows by pages, and a leak is lost among what the C library
keeps. What each connection leaves is there fifty times after a round of fifty. What is made once, or is kept for the
next use, is not there again after a further round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import pytest
from live import ServerProcess, expect_failure, expect_goodbye, ping, wait_until
from loops import HAS_GIL
from raw import BINARY, CONT, PING, PONG, TEXT, RawClient, frame, request

# With PYTHONMALLOC=malloc, which AddressSanitizer needs, nobody counts. Without the GIL each thread has a heap of its
# own, and what others give back to it counts until it looks.
pytestmark = pytest.mark.skipif(
    sys.getallocatedblocks() == 0 or not HAS_GIL, reason="the interpreter does not count its blocks, or not at once"
)

VISITORS = 50
# With as many threads. The first ones are for what is made once, such as modules that are imported late.
ROUNDS = 8

# Of so many visitors, with the number of the first: each does what its test is about, and has left when this returns.
Visit: TypeAlias = Callable[[int, range], None]

COUNTING = """
import asyncio, gc
from unlimitedws import Accept, ConnectionClosed, Reject, Sent, metrics
from unlimitedws.auth import FirstMessageAuth, Identity

# What is made of what is logged is the application's.
logging.disable()
tasks = ()

def counted():
    gc.collect()
    return threading.active_count(), sys.getallocatedblocks(), len(gc.get_objects())

def figures():
    now = server.counters()
    return len(tasks), *(now[name] for name in ("descriptors", "slab_used_bytes", "targets", "timers"))

def greet(conn):
    conn.data = {"path": conn.path, "from": conn.remote_addr}

def answer(conn, message):
    assert conn.data["path"]
    if message == "close":
        conn.close(4000, "as you wish")
    else:
        conn.send(message)

def read(conn):
    message, opcode = wsutil.read_client_data(conn)
    if message == b"close":
        conn.close(4000, "as you wish")
    else:
        wsutil.write_server_message(conn, opcode, message)

def piece(conn, fragment):
    if fragment.data == b"close":
        conn.close(4000, "as you wish")
    elif fragment.data:
        conn.send(fragment.data.decode() if fragment.opcode == 1 else fragment.data)
"""

# The event loop has a thread of its own: the main one evaluates what it is asked.
ASYNCIO = """
from unlimitedws import aio

begun = threading.Event()

async def main(handler, options):
    global server, tasks, loop, over
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    async with aio.serve(handler, "127.0.0.1", 0, **options) as serving:
        server, tasks = serving.server, serving._tasks
        begun.set()
        await over.wait()

async def converse(connection):
    async for message in connection:
        if message == "close":
            await connection.close(4000, "as you wish")
        else:
            await connection.send(message)

def begin(handler, **options):
    threading.Thread(target=asyncio.run, args=(main(handler, options),)).start()
    begun.wait()
"""

ASYNCIO_EPILOGUE = """
print(server.local_addr.port, flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
loop.call_soon_threadsafe(over.set)
"""


class Count(NamedTuple):
    """What a process has: blocks of the interpreter's allocator, objects that its collector watches."""

    blocks: int
    objects: int


def what_stays(server: ServerProcess, visit: Visit) -> list[Count]:
    """Return the counts after each round, if there is more after each; nothing, if after one there is no more.

    A thread that begins brings what is its own, so rounds are compared that end with as many threads.
    """
    counts: dict[int, list[Count]] = {}
    at_rest = server.ask("figures()")
    first = 0
    while True:
        visit(server.port, range(first, first + VISITORS))
        first += VISITORS
        wait_until(lambda: server.ask("figures()") == at_rest, "nobody is left, and no buffer of anybody")
        threads, *counted = server.ask("counted()")
        now, before = Count(*counted), counts.setdefault(threads, [])
        if any(now.blocks <= then.blocks and now.objects <= then.objects for then in before):
            return []
        before.append(now)
        if len(before) == ROUNDS:
            return before


@contextmanager
def serving(body: str) -> Iterator[ServerProcess]:
    """Run a server; a body that calls `begin` makes one of asyncio's."""
    is_asyncio = "begin(" in body
    program = (COUNTING + ASYNCIO + body, ASYNCIO_EPILOGUE) if is_asyncio else (COUNTING + body,)
    with ServerProcess(*program) as server:
        yield server


def each(visit: Callable[[int, int], None]) -> Visit:
    """One after the other; visit is called with the port and the visitor's number."""

    def visits(port: int, numbers: range) -> None:
        for number in numbers:
            visit(port, number)

    return visits


def together(begin: Callable[[RawClient], None], end: Callable[[RawClient], object], handshake: bool = True) -> Visit:
    """All at once, for what takes a while."""

    def visits(port: int, numbers: range) -> None:
        clients = [RawClient(port, path=f"/{number}", handshake=handshake) for number in numbers]
        for client in clients:
            begin(client)
        for client in clients:
            end(client)
            client.close()

    return visits


# --- however they are served, and however they end ---

SERVERS = {
    "on_message": """
server = unlimitedws.NewServer("127.0.0.1:0")
server.on_connect, server.on_message, server.on_close = greet, answer, lambda conn: conn.data.clear()
""",
    "on_message in a pool": """
server = unlimitedws.NewServer("127.0.0.1:0", pool=(4, 64))
server.on_connect, server.on_message, server.on_close = greet, answer, lambda conn: conn.data.clear()
""",
    "on_read": """
server = unlimitedws.NewServer("127.0.0.1:0")
server.on_read = read
""",
    "on_read in a pool": """
server = unlimitedws.DefaultServer("127.0.0.1:0", pool=(4, 64))
server.on_connect, server.on_read, server.on_close = greet, read, lambda conn: conn.data.clear()
""",
    "on_fragment": """
server = unlimitedws.NewServer("127.0.0.1:0")
server.on_fragment = piece
""",
    "several loops": """
server = unlimitedws.NewServer("127.0.0.1:0", loops=2, private_fds=True)
server.on_connect, server.on_message = greet, answer
""",
    "everything kept": """
server = unlimitedws.NewServer("127.0.0.1:0", keep_request=True, max_lifetime=60)
server.subprotocols = ["chat"]
known = set()
server.on_message = answer

@server.on_connect
def join(conn):
    greet(conn)
    conn.data["fields"] = dict(conn.request.headers)
    known.add(conn)

server.on_close = known.discard
""",
    "asyncio": "begin(converse)",
    "asyncio, with hooks": """
async def ask(connection, request):
    connection.greeting = str(request.headers)

begin(converse, process_request=ask, process_response=lambda connection, request, response: None)
""",
}


def say(client: RawClient) -> None:
    """Talk: a message that is whole, and one in pieces with a ping between them. Both come back."""
    client.send_frame(TEXT, "hello")
    assert client.recv_message() == "hello"
    client.send(frame(BINARY, b"a" * 300, fin=False) + frame(PING, b"between") + frame(CONT, b"b" * 700))
    # Streamed, it may come back in two messages.
    payloads = [b""]
    while len(b"".join(payloads)) < 1000:
        come = client.recv_frame()
        if come.opcode != PONG:
            payloads.append(come.payload)
    assert b"".join(payloads) == b"a" * 300 + b"b" * 700


def close(client: RawClient) -> None:
    client.close_cleanly()


def be_closed(client: RawClient) -> None:
    client.send_frame(TEXT, "close")
    expect_goodbye(client, 4000)
    client.close()


def fin(client: RawClient) -> None:
    client.shutdown()
    client.recv_until_eof()
    client.close()


def reset(client: RawClient) -> None:
    client.reset()


def tear(client: RawClient) -> None:
    client.send(frame(BINARY, b"c" * 5000)[:3000])
    client.reset()


def unasked(client: RawClient) -> None:
    """A message that is not waited for, and RST."""
    client.send_frame(TEXT, "and now?")
    client.reset()


ENDS = (close, be_closed, fin, reset, tear, unasked)


@pytest.mark.parametrize("kind", SERVERS)
def test_nothing_stays_of_one_who_has_talked_however_it_ended(kind: str) -> None:
    headers = [("Sec-WebSocket-Protocol", "chat")]
    with serving(SERVERS[kind]) as server:
        for end in ENDS:

            def visit(port: int, number: int, end: Callable[[RawClient], None] = end) -> None:
                client = RawClient(port, path=f"/room/{number}", headers=headers)
                say(client)
                end(client)

            assert not what_stays(server, each(visit)), end.__name__


# --- whatever else is done ---


def refused(port: int, number: int) -> None:
    with RawClient(port, handshake=False) as client:
        client.send(request(f"/{number}", headers=[("X-Number", str(number))]))
        assert client.recv_response().status >= 400
        client.recv_until_eof()


def failed(port: int, number: int) -> None:
    with RawClient(port, path=f"/{number}") as client:
        client.send_frame(TEXT, "in the clear", mask=False)
        expect_failure(client, 1002)


def told(message: str, code: int) -> Callable[[int, int], None]:
    """One who says this is closed with that."""

    def visit(port: int, number: int) -> None:
        with RawClient(port, path=f"/{number}") as client:
            client.send_frame(TEXT, message)
            expect_end_with(client, code)

    return visit


def expect_end_with(client: RawClient, code: int) -> None:
    assert client.recv_close().code == code
    client.send_close(code)
    client.recv_until_eof()


def conversed(port: int, number: int) -> None:
    with RawClient(port, path=f"/{number}") as client:
        say(client)
        client.close_cleanly()


def recognized(port: int, number: int) -> None:
    with RawClient(port, path=f"/{number}") as client:
        client.send_frame(TEXT, "open sesame")
        say(client)
        client.close_cleanly()


def looked(path: str) -> Callable[[int, int], None]:
    def visit(port: int, number: int) -> None:
        with RawClient(port, handshake=False) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: here\r\nX-Number: {number}\r\n\r\n".encode())
            assert client.recv_response().status == 200
            client.recv_until_eof()

    return visit


def pinged(port: int, number: int) -> None:
    with RawClient(port, path=f"/{number}") as client:
        ping(client)
        client.send_frame(TEXT, "ping me")
        got = client.recv_frame()
        assert got.opcode == PING
        client.send_frame(PONG, got.payload)
        assert client.recv_message() == "it took a while"
        client.close_cleanly()


def flooded(port: int, number: int) -> None:
    with RawClient(port, path=f"/{number}", rcvbuf=4096) as client:
        client.send_frame(TEXT, "more")
        while (got := client.recv_message()) != "it has left":
            assert got == b"m" * 50_000
        client.close_cleanly()


def awaited(port: int, number: int) -> None:
    with RawClient(port, path=f"/{number}") as client:
        got = client.recv_frame()
        assert got.opcode == PING
        client.send_frame(PONG, got.payload)
        assert client.recv_message() == "it took a while"
        client.close_cleanly()


def silent(client: RawClient) -> None:
    """Nothing is said."""


def timed_out(client: RawClient) -> None:
    """The handshake was: 408, and the end."""
    assert client.recv_response().status == 408
    client.recv_until_eof()


def sent_away(client: RawClient) -> None:
    expect_end_with(client, 1001)


PLAIN = """
server = unlimitedws.NewServer("127.0.0.1:0")
server.on_connect, server.on_message = greet, answer
"""
SHORT = """
server = unlimitedws.NewServer("127.0.0.1:0", {}=0.1)
server.on_connect, server.on_message = greet, answer
"""
ACCEPTED = """
@server.on_request
def ask(request):
    fields = [("X-Welcome", request.path)]
    return Accept(user=request.path, session=str(request.remote_addr), expires=time.time() + 60, headers=fields)
"""
FIRST = """
def verify(credential):
    return Identity("somebody") if credential == "open sesame" else None

server.auth = FirstMessageAuth(verify)
"""

USES: dict[str, tuple[str, Visit]] = {
    "the handshake is refused": (
        PLAIN + "server.on_request = lambda request: Reject(403, 'no', headers=[('X-Asked', request.path)])",
        each(refused),
    ),
    "a coroutine refuses the handshake": (
        PLAIN
        + """
@server.on_request
async def refuse(request):
    await asyncio.sleep(0)
    return Reject(401)
""",
        each(refused),
    ),
    "the handshake's hook raises": (
        PLAIN
        + """
server.on_error = lambda request, error: request.headers

@server.on_request
def fail(request):
    raise ValueError(request)
""",
        each(refused),
    ),
    "accepted as somebody": (PLAIN + ACCEPTED, each(conversed)),
    "accepted by a coroutine": (PLAIN + ACCEPTED.replace("def", "async def"), each(conversed)),
    "accepted in a pool": (PLAIN.replace('0")', '0", pool=(4, 64))') + ACCEPTED, each(conversed)),
    # One name for all: whoever was disconnected is remembered for as long as a handshake may take.
    "disconnected by name": (
        PLAIN
        + ACCEPTED.replace("user=request.path", "user='somebody'")
        + """
server.on_message = lambda conn, message: server.disconnect(user=conn.user)
""",
        each(told("disconnect me", 3000)),
    ),
    "the first message says who it is": (PLAIN + FIRST, each(recognized)),
    "the first message says nothing": (PLAIN + FIRST, each(told("nobody", 3000))),
    "a callback raises": (
        PLAIN
        + """
server.on_error = lambda conn, error: conn.remote_addr

@server.on_message
def fail(conn, message):
    raise ValueError(conn)
""",
        each(told("raise", 1011)),
    ),
    "a rule of the protocol is broken": (PLAIN, each(failed)),
    "a page": (PLAIN + "server.route('/', lambda request: request.path)", each(looked("/"))),
    "the metrics": (PLAIN + "metrics.route(server)", each(looked("/metrics"))),
    "its memory is asked for": (
        PLAIN + "server.on_message = lambda conn, message: (server.memory(), server.counters(), answer(conn, message))",
        each(conversed),
    ),
    "pings either way": (
        PLAIN
        + """
server.on_message = lambda conn, message: conn.ping(b"some of ours")
server.on_pong = lambda conn, payload: conn.send("it took a while")
""",
        each(pinged),
    ),
    "the queue is high, and drained": (
        PLAIN
        + """
server.on_drain = lambda conn: conn.send("it has left")

@server.on_message
def flood(conn, message):
    while conn.send(b"m" * 50_000) is not Sent.HIGH:
        pass
""",
        each(flooded),
    ),
    "used behind its end": (
        PLAIN
        + """
@server.on_close
def use(conn):
    try:
        conn.send("too late")
    except ConnectionClosed as closed:
        conn.data["why"] = closed
""",
        each(conversed),
    ),
    "no request in time": (SHORT.format("handshake_timeout"), together(silent, timed_out, handshake=False)),
    "idle for too long": (SHORT.format("idle_timeout"), together(silent, sent_away)),
    "too old": (SHORT.format("max_lifetime"), together(silent, sent_away)),
    "asyncio: pinged, sent to from a task, and timed out": (
        """
async def handle(connection):
    latency = await (await connection.ping())
    task = asyncio.create_task(connection.send("it took a while"))
    try:
        await asyncio.wait_for(connection.recv(), 0.001)
    except (asyncio.TimeoutError, ConnectionClosed):
        pass
    await task
    await connection.wait_closed()

begin(handle)
""",
        each(awaited),
    ),
    "asyncio: the handler raises": (
        """
async def handle(connection):
    raise ValueError(await connection.recv())

begin(handle)
""",
        each(told("raise", 1011)),
    ),
    "asyncio: broadcast": (
        """
group = set()

async def handle(connection):
    group.add(connection)
    try:
        async for message in connection:
            aio.broadcast(group, message)
    finally:
        group.discard(connection)

begin(handle)
""",
        each(conversed),
    ),
}


@pytest.mark.parametrize("use", USES)
def test_nothing_stays_of_one_of_whom_much_was_made(use: str) -> None:
    body, visit = USES[use]
    with serving(body) as server:
        assert not what_stays(server, visit)


# --- and if something did ---

LEAKS = {
    "a small number": "kept.append(float(len(kept)))",
    "a text": "kept.append(conn.path)",
    "the connection": "kept.append(conn)",
    "a circle that is never let go of": "conn.data = [conn]; kept.append(conn.data)",
}


@pytest.mark.parametrize("leak", LEAKS)
def test_what_stays_of_every_fifth_one_is_found(leak: str) -> None:
    body = f"""
{PLAIN}
kept, n_come = [], 0

@server.on_close
def keep(conn):
    global n_come
    n_come += 1
    if n_come % 5 == 0:
        {LEAKS[leak]}
"""
    with serving(body) as server:
        counts = what_stays(server, each(conversed))
        assert len(counts) == ROUNDS
        assert counts[-1].blocks - counts[1].blocks >= (ROUNDS - 2) * VISITORS // 5
