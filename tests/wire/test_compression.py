"""permessage-deflate over real sockets (RFC 7692): what is agreed on, compressed and refused, and what it costs."""

from __future__ import annotations

import json
import queue
import random
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
import raw
from live import each_mode, echo, expect_failure, ping, serve, take, wait, wait_until
from loops import Held, running
from raw import BINARY, CONT, PONG, TEXT, TIMEOUT, Frame, RawClient

import unlimitedws
from unlimitedws import Accept, Compression, wsutil

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

ROOT = Path(__file__).resolve().parents[2]
PMD = "permessage-deflate"
RESETS = f"{PMD}; server_no_context_takeover; client_no_context_takeover"
OFFER = [("Sec-WebSocket-Extensions", PMD)]
KEEPS = Compression(server_context_takeover=True, client_context_takeover=True)
MIB = 1 << 20
SENTENCE = "the quick brown fox jumps over the lazy dog; "


class Peer:
    """The client's contexts, CPython's: kept, or new for each message."""

    def __init__(self, kept: bool = False) -> None:
        self.kept = kept
        self.deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
        self.inflater = zlib.decompressobj(-15)

    def squeeze(self, message: bytes) -> bytes:
        context = self.deflater if self.kept else zlib.compressobj(6, zlib.DEFLATED, -15)
        return (context.compress(message) + context.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def stretch(self, data: bytes) -> bytes:
        context = self.inflater if self.kept else zlib.decompressobj(-15)
        return context.decompress(data + b"\x00\x00\xff\xff")

    def read(self, frame: Frame) -> tuple[bytes, bool]:
        """(the message of a whole frame, whether it was compressed)"""
        assert frame.fin and frame.opcode in (TEXT, BINARY) and frame.rsv in (0, 4), frame
        return (self.stretch(frame.payload), True) if frame.rsv else (frame.payload, False)


def extensions(client: RawClient) -> str | None:
    assert client.response is not None
    return client.response.headers.get("sec-websocket-extensions")


# --- agreeing ---


@pytest.mark.parametrize(
    ("option", "offer", "answer"),
    [
        (False, PMD, None),
        (True, None, None),
        (True, "x-webkit-deflate-frame", None),
        (True, f"{PMD}; server_max_window_bits=99", None),
        (True, f"{PMD}; client_max_window_bits", RESETS),
        (Compression(), f"{PMD}; client_max_window_bits", RESETS),
        (KEEPS, f"{PMD}; client_max_window_bits", PMD),
        (
            Compression(server_max_window_bits=10, client_max_window_bits=11, client_context_takeover=True),
            f"{PMD}; client_max_window_bits",
            f"{PMD}; server_no_context_takeover; server_max_window_bits=10; client_max_window_bits=11",
        ),
        (Compression(client_max_window_bits=11, client_context_takeover=True), PMD, RESETS),
    ],
)
def test_server_answers_an_offer_as_its_option_says(option: Any, offer: str | None, answer: str | None) -> None:
    with serve(compression=option, on_read=echo) as live:
        client = live.connect(headers=[("Sec-WebSocket-Extensions", offer)] if offer else [])
        assert extensions(client) == answer
        client.send_frame(TEXT, "plain")
        assert client.recv_frame() == Frame(True, 0, TEXT, b"plain")


def test_a_hook_on_the_request_changes_nothing_about_it() -> None:
    with serve(compression=True, on_read=echo) as live:
        live.server.on_request(lambda request: Accept(headers={"X-Seen": "yes"}, subprotocol=None))
        client = live.connect(headers=OFFER)
        assert client.response is not None and client.response.headers["x-seen"] == "yes"
        assert extensions(client) == RESETS
        client.send_frame(TEXT, Peer().squeeze(b"hello"), rsv=4)
        assert client.recv_frame() == Frame(True, 0, TEXT, b"hello")


def test_rsv1_without_an_agreement_is_closed_with_1002() -> None:
    for option, headers in ((False, OFFER), (True, [])):
        with serve(compression=option, on_read=echo) as live:
            client = live.connect(headers=headers)
            client.send_frame(TEXT, Peer().squeeze(b"hello"), rsv=4)
            expect_failure(client, 1002)


# --- sending and receiving ---


@each_mode
@pytest.mark.parametrize("option", [True, KEEPS], ids=["reset", "kept"])
def test_messages_come_back_however_they_are_sent(pool: Any, option: Any) -> None:
    rng = random.Random(1)
    with serve(compression=option, pool=pool, on_read=echo) as live:
        client, peer = live.connect(headers=OFFER), Peer(option is KEEPS)
        for size in (0, 1, 1023, 1024, 5000, 8192, 8193, 70_000, 500_000):
            for message in ((SENTENCE * (size // 40 + 1)).encode()[:size], rng.randbytes(size)):
                data = peer.squeeze(message) if message else b"\x00"
                cut = rng.randrange(len(data) + 1)
                client.send_frame(BINARY, data[:cut], fin=False, rsv=4)
                client.send_frame(CONT, data[cut:])
                got, compressed = peer.read(client.recv_frame())
                assert got == message
                if size < 1024:
                    assert not compressed
                elif option is KEEPS or SENTENCE.encode() in message:
                    assert compressed
                client.send_frame(BINARY, message)
                assert peer.read(client.recv_frame())[0] == message
        ping(client)
        assert client.close_cleanly().code == 1000


@pytest.mark.parametrize("kept", [False, True], ids=["reset", "kept"])
def test_which_messages_are_compressed(kept: bool) -> None:
    """From the threshold on, or as send() was told; what does not become smaller goes as it is, with no context."""
    noise = random.Random(0).randbytes(5000)
    option = Compression(threshold=100, server_context_takeover=kept)
    sends: list[tuple[Any, dict[str, Any], bool]] = [
        ("x" * 99, {}, False),
        ("x" * 100, {}, True),
        ("x" * 99, {"compress": True}, True),
        ("x" * 5000, {"compress": False}, False),
        ("x" * 5000, {"compress": None}, True),
        (b"x" * 500_000, {"compress": True}, True),
        (bytearray(b"y" * 5000), {}, True),
        ("", {"compress": True}, False),
        ("a", {"compress": True}, kept),
        (noise, {"compress": True}, kept),
        (random.Random(1).randbytes(200_000), {}, kept),
    ]

    def talk(conn: Any) -> None:
        wsutil.read_client_data(conn)
        for message, keywords, _ in sends:
            conn.send(message, **keywords)
        wsutil.write_server_text(conn, "t" * 200)
        wsutil.write_server_binary(conn, b"b" * 200)
        wsutil.write_server_message(conn, unlimitedws.OpCode.TEXT, b"m" * 200)
        wsutil.write_server_message(conn, unlimitedws.OpCode.PONG, b"p" * 125)
        conn.ping(b"q" * 125)

    with serve(compression=option, on_read=talk, max_buffered_bytes=4 * MIB) as live:
        client, peer = live.connect(headers=OFFER), Peer(kept)
        client.send_frame(TEXT, "go")
        for message, keywords, expected in sends:
            got, compressed = peer.read(client.recv_frame())
            assert got == (message.encode() if isinstance(message, str) else bytes(message))
            assert compressed == expected, (message[:10], keywords)
        for letter in (b"t", b"b", b"m"):
            assert peer.read(client.recv_frame()) == (letter * 200, True)
        assert client.recv_frame() == Frame(True, 0, PONG, b"p" * 125)
        assert client.recv_frame().rsv == 0


def test_send_takes_true_false_or_none() -> None:
    errors: queue.Queue[Any] = queue.Queue()

    def talk(conn: Any) -> None:
        for wrong in (1, 0, "yes", 1.5):
            with pytest.raises(TypeError, match="compress: must be True, False or None"):
                conn.send("x", compress=wrong)
        with pytest.raises(TypeError):
            conn.send("x", True)
        conn.send("fine", compress=True)
        errors.put(None)

    with serve(on_read=talk) as live:
        client = live.connect()
        client.send_frame(TEXT, "go")
        assert client.recv_frame().payload == b"fine"
        take(errors)


def test_what_a_client_asked_for_as_its_window_is_kept_to() -> None:
    with serve(compression=KEEPS, on_read=echo) as live:
        for bits in range(8, 16):
            client = live.connect(headers=[(OFFER[0][0], f"{PMD}; server_max_window_bits={bits}")])
            assert extensions(client) == f"{PMD}; server_max_window_bits={bits}"
            narrow = zlib.decompressobj(-bits)
            for i in range(5):
                message = random.Random(i % 2).randbytes(3000) + b"x" * 2000
                client.send_frame(BINARY, message)
                got = client.recv_frame()
                assert got.rsv == 4
                # In small steps: only the window holds what was before.
                left, out = got.payload + b"\x00\x00\xff\xff", b""
                while left:
                    out += narrow.decompress(left, 50)
                    left = narrow.unconsumed_tail
                assert out == message


def test_counters_tell_what_it_saves() -> None:
    with running(compression=1, on_message=lambda conn, message: conn.send(message)) as engine:
        client, peer = engine.connect(headers=OFFER), Peer()
        message = (SENTENCE * 200).encode()
        data = peer.squeeze(message)
        client.send_frame(TEXT, data, rsv=4)
        back = client.recv_frame()
        client.send_frame(TEXT, "short")
        client.recv_frame()
        counters = engine.loop.counters()
        assert (counters["inflated"], counters["inflated_from_bytes"], counters["inflated_bytes"]) == (
            1, len(data), len(message),
        )  # fmt: skip
        assert (counters["deflated"], counters["deflated_from_bytes"], counters["deflated_bytes"]) == (
            1, len(message), len(back.payload),
        )  # fmt: skip
        assert counters["bytes_out"] == len(message) + 5


# --- refusing ---


@pytest.mark.parametrize(
    ("opcode", "payload", "code"),
    [
        (BINARY, b"\xff\xff\xff", 1007),
        (BINARY, Peer().squeeze(SENTENCE.encode())[:-2], 1007),
        (TEXT, Peer().squeeze(b"caf\xe9"), 1007),
        (TEXT, Peer().squeeze("é".encode()[:1]), 1007),
        (BINARY, Peer().squeeze(bytes(MIB + 1)), 1009),
        (BINARY, Peer().squeeze(bytes(200 * MIB)), 1009),
    ],
    ids=["noise", "cut", "latin-1", "half", "limit", "bomb"],
)
def test_bad_messages_are_refused(opcode: int, payload: bytes, code: int) -> None:
    for option in (True, KEEPS):
        with serve(compression=option, on_read=echo) as live:
            client = live.connect(headers=OFFER)
            client.send_frame(opcode, payload, rsv=4)
            expect_failure(client, code)
            # The shared inflater has forgotten it.
            other, peer = live.connect(headers=OFFER), Peer(option is KEEPS)
            other.send_frame(TEXT, peer.squeeze(b"well"), rsv=4)
            assert other.recv_frame().payload == b"well"


# --- what it costs ---


def test_an_idle_connection_costs_nothing_more() -> None:
    seen: queue.Queue[Any] = queue.Queue()

    def answer(conn: Any, message: Any) -> None:
        conn.send(message)
        seen.put(len(message))

    with running(compression=1, on_message=answer) as engine:
        clients = [engine.connect(headers=OFFER) for _ in range(50)]
        for client in clients:
            client.send_frame(TEXT, Peer().squeeze(SENTENCE.encode() * 100), rsv=4)
            assert client.recv_frame().rsv == 4
        engine.wait_for(connections=50, slab_blocks=0, slab_used_bytes=0)


def test_kept_contexts_come_with_the_first_message_and_go_with_the_connection() -> None:
    with running(
        compression=1,
        compression_server_takeover=1,
        compression_client_takeover=1,
        compression_server_bits=9,
        compression_client_bits=9,
        compression_mem_level=1,
        on_message=lambda conn, message: conn.send(message, compress=True),
    ) as engine:
        header = [(OFFER[0][0], f"{PMD}; client_max_window_bits")]
        clients = [engine.connect(headers=header) for _ in range(20)]
        engine.wait_for(connections=20, slab_blocks=20)
        assert engine.counter("slab_used_bytes") <= 20 * 64
        narrow = zlib.compressobj(6, zlib.DEFLATED, -9)
        data = (narrow.compress(SENTENCE.encode()) + narrow.flush(zlib.Z_SYNC_FLUSH))[:-4]
        for client in clients[:10]:
            client.send_frame(TEXT, data, rsv=4)
            assert zlib.decompressobj(-9).decompress(client.recv_frame().payload) == SENTENCE.encode()
        assert engine.counter("slab_used_bytes") > 10 * 8192
        # However they go: with a close frame, with a broken rule, without a word.
        clients[0].close_cleanly()
        clients[1].send_frame(3)
        clients[1].recv_close()
        clients[2].reset()
        for client in clients:
            client.close()
        engine.wait_empty()


def test_bombs_of_just_the_limit_are_read_in_small_bites() -> None:
    """Sixty messages of 1 MiB fit what is received of one connection at a time: not all of them are there at once."""
    most = [0, 0]

    def measure(conn: Any, message: bytes) -> None:
        most[0] = max(most[0], engine.counter("slab_used_bytes"))
        most[1] += len(message)

    data = Peer().squeeze(bytes(MIB))
    with running(compression=1, on_message=measure, max_message_bytes=MIB) as engine:
        client = engine.connect(headers=OFFER)
        for _ in range(200):
            client.send_frame(BINARY, data, rsv=4)
        wait_until(lambda: most[1] == 200 * MIB, "all of them")
        # What was there when it was decided to read, what one reading brings, and one more while a callback runs.
        assert most[0] <= 4 * MIB + 2 * 4096 // len(data) * MIB + 2 * MIB


def test_no_more_bombs_of_one_connection_are_inflated_in_a_turn_than_four_kilobytes_have() -> None:
    """A thousandth of what it comes to is soon read: all others wait for as many as fit what is read at a time."""
    seen = 0
    most = 0

    def measure(conn: Any, message: bytes) -> None:
        nonlocal seen, most
        seen += 1
        most = max(most, engine.counter("messages_in") - seen)

    bomb = raw.frame(BINARY, Peer().squeeze(bytes(MIB)), rsv=4)
    # No other thread polls meanwhile, however long it takes.
    with running(compression=1, on_message=measure, max_message_bytes=MIB, schedule_timeout_us=60_000_000) as engine:
        client = engine.connect(headers=OFFER)
        client.send(bomb * 64)
        wait_until(lambda: seen == 64, "all of them")
        # Those that are whole in the reading, and one that began before; the first of them is what was being seen.
        assert 0 < most <= 4096 // len(bomb)


def test_many_senders_of_bombs_are_held_back_while_nobody_takes_what_they_sent() -> None:
    let_go = threading.Event()
    seen: queue.Queue[int] = queue.Queue()

    def stuck(conn: Any, message: bytes) -> None:
        wait(let_go)
        seen.put(len(message))

    data = Peer().squeeze(bytes(MIB))
    budget = 4 * MIB
    limits = {"max_inbox_total_bytes": budget, "max_message_bytes": MIB}
    with running(compression=1, on_message=stuck, record=False, **limits) as engine:
        clients = [engine.connect(headers=OFFER) for _ in range(40)]
        for client in clients:
            client.send_frame(BINARY, data, rsv=4)
            client.send_frame(BINARY, data, rsv=4)
        wait_until(lambda: engine.counter("pauses") >= 10, "those who are held back")
        # Others are not: they send what they send, and pings are answered.
        plain = engine.connect()
        ping(plain)
        assert engine.counter("slab_used_bytes") <= budget + 4096 // len(data) * MIB + 8 * MIB
        let_go.set()
        for _ in range(80):
            assert take(seen) == MIB
        engine.wait_for(inbox_bytes=0, slab_blocks=0)
        for client in clients:
            ping(client)


def test_who_sent_bombs_is_read_after_all_others_and_in_turn() -> None:
    # One fits what is read of such a client at a time.
    bomb, word = (raw.frame(BINARY, Peer().squeeze(data), rsv=4) for data in (bytes(900 << 10), b"word"))
    held = Held(compression=1, max_message_bytes=MIB)
    with held.engine as engine:
        bombers = [engine.connect(headers=OFFER) for _ in range(8)]
        reformed = engine.connect(headers=OFFER)
        with held.while_it_is_kept(engine, 9):
            for client in (*bombers, reformed):
                client.send(bomb)
        with held.while_it_is_kept(engine, 1):
            reformed.send(word)
        plain, compressing = engine.connect(), engine.connect(headers=OFFER)
        with held.while_it_is_kept(engine, 35):
            for client in bombers:
                client.send(bomb * 4)
            plain.send_frame(TEXT, b"word")
            compressing.send(word)
            reformed.send(word)
        assert sorted(held.by(plain, compressing, reformed)) == [0, 1, 2]
        # Each gets as far as the others: nobody's next but one comes before somebody's next.
        places = [held.by(client) for client in bombers]
        for n in range(3):
            assert max(of[n] for of in places) < min(of[n + 1] for of in places) + len(bombers), held.order


def test_of_bombs_that_nobody_expected_one_is_inflated_before_the_others_are_read() -> None:
    bomb = raw.frame(BINARY, Peer().squeeze(bytes(MIB)), rsv=4)
    held = Held(compression=1, max_message_bytes=MIB)
    with held.engine as engine:
        bombers = [engine.connect(headers=OFFER) for _ in range(8)]
        plain = engine.connect()
        with held.while_it_is_kept(engine, 9):
            for client in bombers:
                client.send(bomb)
            plain.send_frame(TEXT, b"word")
        assert held.by(plain)[0] <= 1


# --- threads ---


@pytest.mark.parametrize("option", [True, KEEPS], ids=["reset", "kept"])
def test_messages_of_many_threads_are_compressed_in_the_order_in_which_they_leave(option: Any) -> None:
    conns: queue.Queue[Any] = queue.Queue()
    rows = [json.dumps({"thread": t, "n": n, "pad": SENTENCE * (n % 7 * 60)}) for t in range(6) for n in range(40)]
    with serve(compression=option, pool=(8, 8), on_connect=conns.put, max_buffered_bytes=64 * MIB) as live:
        clients = [live.connect(headers=OFFER) for _ in range(3)]
        targets = [take(conns) for _ in clients]

        def sender(t: int) -> None:
            for row in rows[t * 40 : t * 40 + 40]:
                for conn in targets:
                    conn.send(row, compress=True)

        threads = [threading.Thread(target=sender, args=(t,)) for t in range(6)]
        for thread in threads:
            thread.start()
        for client in clients:
            peer = Peer(option is KEEPS)
            got = [peer.read(client.recv_frame())[0].decode() for _ in rows]
            assert sorted(got) == sorted(rows)
            for t in range(6):
                assert [row for row in got if json.loads(row)["thread"] == t] == rows[t * 40 : t * 40 + 40]
        for thread in threads:
            thread.join(TIMEOUT)


# The GIL, the compressor's lock and the loop's, wanted by all at once; and forks in between. In a process of its own: a
# deadlock that holds the GIL leaves nobody here to tell of it.
SCRIPT = """
import contextlib, os, socket, sys, threading, time
import unlimitedws
from unlimitedws import Compression
from raw import RawClient

sys.setswitchinterval(1e-6)
conns = []
option = Compression(server_context_takeover=sys.argv[1] == "kept")
server = unlimitedws.DefaultServer("127.0.0.1:0", compression=option, max_buffered_bytes=1 << 30)
server.on_connect(conns.append)
server.on_read(lambda conn: None)
until = time.monotonic() + 2

def compute():
    while time.monotonic() < until:
        pass

def send(size):
    message = b"the same " * (size // 9)
    while time.monotonic() < until:
        for conn in conns:
            conn.send(message)
        if server.counters()["connections"] == 0:
            break

def fork():
    while time.monotonic() < until:
        pid = os.fork()
        if pid == 0:
            try:
                conns[0].send("x" * 5000)
            except unlimitedws.ConnectionClosed:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        time.sleep(0.05)

def drain(client):
    client.sock.settimeout(None)
    # At the end what is still on its way meets a socket that was shut down.
    with contextlib.suppress(ConnectionResetError):
        while client.sock.recv(1 << 20):
            pass

with server:
    clients = [RawClient(server.local_addr.port, headers=[("Sec-WebSocket-Extensions", "permessage-deflate")])
               for _ in range(4)]
    while len(conns) < 4:
        time.sleep(0.01)
    drains = [threading.Thread(target=drain, args=(client,)) for client in clients]
    work = [threading.Thread(target=compute) for _ in range(3)]
    work += [threading.Thread(target=send, args=(size,)) for size in (1500, 2000, 8000, 20_000, 200_000)]
    work.append(threading.Thread(target=fork))
    for thread in drains + work:
        thread.start()
    for thread in work:
        thread.join()
    assert server.counters()["deflated"] > 20
    for client in clients:
        client.sock.shutdown(socket.SHUT_RDWR)
for thread in drains:
    thread.join()
"""


@pytest.mark.parametrize("context", ["reset", "kept"])
def test_nobody_waits_for_the_gil_with_the_compressors_lock(context: str) -> None:
    path = [str(ROOT / name) for name in ("src", "tests")]
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys; sys.path[:0] = {path!r}\n{SCRIPT}", context],
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert (process.returncode, process.stderr.decode()) == (0, "")
