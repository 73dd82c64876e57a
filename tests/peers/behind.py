"""What holds behind a proxy, whichever it is; and running one, with a configuration of docs/deployment.md.

A proxy is a process of its own, on a port of its own, as nobody where the tests are root's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import raw
from live import Ended, Live, each_mode, echo, serve, take, wait, wait_until
from raw import BINARY, CLOSE, PING, PONG, TEXT, TIMEOUT, Close, Frame, RawClient

from unlimitedws import Address, CloseCause, Reject

from .exchange import BLOB, CLOSE_CODE, CLOSE_REASON, FRAGMENTS
from .exchange import TEXT as HELLO

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
MIB = 1 << 20
# As whom the clients come: not as the proxy, which is trusted.
CLIENT_HOST = "127.0.0.2"
PROXY_HOST = "127.0.0.1"
BACKEND = "127.0.0.1:8000"
START_TIMEOUT = 10.0


def program(name: str) -> str | None:
    """Find a program that Debian puts where only root looks."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def documented(title: str) -> str:
    """Return the configuration of docs/deployment.md that begins with this comment."""
    blocks = re.findall(r"^```\w+\n(.*?)^```$", DEPLOYMENT.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(f"# {title}\n")]
    return str(block)


def replaced(config: str, changes: dict[str, str]) -> str:
    """Change a configuration; what is to be changed has to be there.

    Args:
        config: the text.
        changes: for how a line begins, white space aside, the new line.
    """
    for begin, new in changes.items():
        pattern = re.compile(rf"^([ \t]*){re.escape(begin)}.*$", re.MULTILINE)
        config, count = pattern.subn(lambda found, new=new: found[1] + new, config)  # type: ignore[misc]
        assert count == 1, f"{begin!r} is there {count} times"
    return config


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((PROXY_HOST, 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], port: int, room: Path) -> Iterator[None]:
    """Run a proxy until the end of the context; it listens when the context begins."""
    nobody: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("nobody")
        os.chown(room, account.pw_uid, account.pw_gid)
        nobody = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with (room.parent / f"{room.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=room, **nobody)
        try:

            def listens() -> bool:
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                with socket.socket() as probe:
                    return probe.connect_ex((PROXY_HOST, port)) == 0

            wait_until(listens, f"{command[0]} listens", START_TIMEOUT)
            yield
        except BaseException:
            # Shown with the failure.
            print(f"{command[0]} said:\n{Path(log.name).read_text(errors='replace')[-2000:]}")
            raise
        finally:
            process.terminate()
            try:
                process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def room_for_nobody() -> Iterator[Path]:
    """A directory that a proxy which is nobody gets at: those that pytest makes are their owner's alone."""
    with tempfile.TemporaryDirectory(prefix="unlimitedws-") as name:
        Path(name).chmod(0o755)
        room = Path(name) / "proxy"
        room.mkdir()
        yield room


class Front:
    """A running proxy before a server.

    Args:
        live: the server.
        port: the proxy's.
    """

    def __init__(self, live: Live, port: int) -> None:
        self.live = live
        self.port = port
        self._clients: list[RawClient] = []

    def connect(self, **options: Any) -> RawClient:
        """Return a client that has done its handshake through the proxy (options: see RawClient)."""
        client = RawClient(self.port, source=CLIENT_HOST, **options)
        self._clients.append(client)
        return client

    def connect_conn(self, **options: Any) -> tuple[RawClient, Any]:
        """Return a client and the server's conn for it."""
        client = self.connect(**options)
        return client, take(self.live.opened, "on_connect")

    def close(self) -> None:
        for client in self._clients:
            client.close()


class Behind:
    """The rules. A subclass says how its proxy is run, and how it tells the client's address.

    Attributes:
        options: of the server.
        has_port: whether the proxy names the client's port.
        reads_http: whether it reads the requests that it passes on.
        gone: the statuses it answers with when the server is gone; empty: it just ends the connection.
    """

    options: dict[str, Any] = {"trusted_proxies": [PROXY_HOST]}  # noqa: RUF012 (nobody changes it)
    has_port = False
    reads_http = True
    gone: tuple[int, ...] = ()

    def run_proxy(
        self, room: Path, port: int, backend: str, idle: str | None, keepalive: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Run the proxy.

        Args:
            room: a directory of its own.
            port: to listen on.
            backend: where the server is, as the proxy writes it.
            idle: how long an open WebSocket may be silent; None leaves what is documented.
            keepalive: whether to keep connections to the server for further requests, where it can.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def proxied(
        self,
        *,
        idle: str | None = None,
        keepalive: bool = False,
        on_read: Callable[[Any], None] | None = echo,
        **options: Any,
    ) -> Iterator[Front]:
        with serve(on_read=on_read, **{**self.options, **options}) as live, room_for_nobody() as room:
            port = free_port()
            with self.run_proxy(room, port, f"127.0.0.1:{live.port}", idle, keepalive):
                front = Front(live, port)
                try:
                    yield front
                finally:
                    front.close()

    def address_of(self, client: RawClient) -> Address:
        """What the server should take the client's address for."""
        host, port = client.address
        return Address(host, port if self.has_port else 0)

    # --- messages ---

    @each_mode
    def test_messages_come_back(self, pool: tuple[int, int] | None) -> None:
        with self.proxied(pool=pool, max_message_bytes=MIB) as front:
            client = front.connect()
            for opcode, message in ((TEXT, HELLO.encode()), (BINARY, BLOB), (TEXT, b""), (BINARY, bytes(MIB))):
                client.send_frame(opcode, message)
                got = client.recv_frame()
                assert (got.opcode, len(got.payload)) == (opcode, len(message))
                assert got.payload == message
            assert client.close_cleanly(CLOSE_CODE, CLOSE_REASON).code == CLOSE_CODE

    def test_a_client_of_others_sees_nothing_of_the_proxy(self) -> None:
        websockets = pytest.importorskip("websockets.sync.client")
        with (
            self.proxied() as front,
            websockets.connect(
                f"ws://127.0.0.1:{front.port}/path?query",
                open_timeout=TIMEOUT,
                proxy=None,
                max_size=None,
            ) as client,
        ):
            assert take(front.live.opened).path == "/path"
            for message in (HELLO, BLOB):
                client.send(message)
                assert client.recv(timeout=TIMEOUT) == message
            client.send(FRAGMENTS)
            assert client.recv(timeout=TIMEOUT) == "".join(FRAGMENTS)

    def test_first_frame_may_come_with_the_request(self) -> None:
        with self.proxied() as front:
            client = front.connect(handshake=False)
            client.send(raw.request() + raw.frame(TEXT, b"early"))
            assert client.recv_response().status == 101
            assert client.recv_frame() == Frame(True, 0, TEXT, b"early")

    def test_pings_go_both_ways(self) -> None:
        with self.proxied() as front:
            client, conn = front.connect_conn()
            client.send_frame(PING, b"from the client")
            assert client.recv_frame() == Frame(True, 0, PONG, b"from the client")
            conn.ping(b"from the server")
            assert client.recv_frame() == Frame(True, 0, PING, b"from the server")

    # --- ends ---

    @pytest.mark.parametrize("compressed", [False, True], ids=["", "with an offer of compression"])
    def test_message_above_the_limit_is_closed_with_1009(self, compressed: bool) -> None:
        offer = [("Sec-WebSocket-Extensions", "permessage-deflate")] if compressed else []
        with self.proxied(max_message_bytes=1000) as front:
            client = front.connect(headers=offer)
            client.send_frame(BINARY, bytes(1001))
            assert client.recv_close().code == 1009
            assert take(front.live.ended).conn.close_cause is CloseCause.LIMIT

    @pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
    def test_close_code_of_the_client_arrives(self, code: int) -> None:
        with self.proxied() as front:
            client, conn = front.connect_conn()
            assert client.close_cleanly(code, "gone").code == code
            assert take(front.live.ended) == Ended(conn, code, "gone")
            assert conn.close_cause is CloseCause.PEER

    @pytest.mark.parametrize("code", [1000, 1008, 3000, 4999])
    def test_close_code_of_the_server_arrives(self, code: int) -> None:
        with self.proxied() as front:
            client, conn = front.connect_conn()
            conn.close(code, "enough")
            assert client.recv_close() == Close(code, "enough")
            client.send_close(code)
            # What the client answered, without a reason.
            assert take(front.live.ended) == Ended(conn, code, "")
            assert conn.close_cause is CloseCause.LOCAL
            assert client.recv_until_eof() == b""

    def test_client_that_just_goes_is_noticed(self) -> None:
        with self.proxied() as front:
            client, conn = front.connect_conn()
            client.reset()
            assert take(front.live.ended) == Ended(conn, 1006, "")

    def test_connection_that_the_server_drops_ends(self) -> None:
        with self.proxied() as front:
            client, conn = front.connect_conn()
            conn.abort()
            with contextlib.suppress(ConnectionResetError):
                assert client.recv_until_eof() == b""

    # --- who it is ---

    def test_client_s_address_is_known_and_cannot_be_pretended(self) -> None:
        lies = [("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=203.0.113.9"), ("X-Real-IP", "203.0.113.9")]
        for headers in ([], lies, lies[:1] * 3, [("X-Forwarded-For", "203.0.113.9, 127.0.0.1")]):
            with self.proxied() as front:
                client, conn = front.connect_conn(headers=headers)
                assert conn.remote_addr == self.address_of(client)

    def test_hooks_see_the_client_s_address_and_host(self) -> None:
        lies = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "a.example")]
        seen: list[Any] = []
        with self.proxied() as front:
            front.live.server.on_request = lambda request: seen.append(
                (request.remote_addr, request.is_secure, request.host)
            )
            client = front.connect(headers=lies)
            assert seen == [(self.address_of(client), False, f"127.0.0.1:{front.port}")]

    # --- one request a connection ---

    def second_requests(self, front: Front) -> list[str]:
        """Serve /second, and return the paths of the requests that get to it."""
        seen: list[str] = []

        def second(request: Any) -> str:
            seen.append(request.path)
            return "second"

        front.live.server.route("/second", second)
        return seen

    def assert_one_request_a_connection(self, front: Front) -> None:
        """Assert, when all is over, that the server never answered twice on one connection."""
        wait_until(lambda: front.live.server.counters()["descriptors"] == 0, "it is over")
        figures = front.live.server.counters()
        answers = sum(value for name, value in figures.items() if name.startswith("answered_"))
        if self.reads_http:
            assert figures["accepted"] == answers
        else:
            # There is one more, of the connection that showed that the proxy listens.
            assert figures["accepted"] == 2 and answers == 1

    SECOND = b"GET /second HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

    def rest_of(self, client: RawClient) -> bytes:
        """Read what comes until the proxy ends the connection."""
        try:
            return client.recv_until_eof()
        except ConnectionResetError:
            return b""

    @pytest.mark.parametrize("keepalive", [False, True], ids=["", "keepalive"])
    @pytest.mark.parametrize("at_once", [False, True], ids=["later", "at once"])
    def test_request_behind_an_upgrade_is_never_served(self, keepalive: bool, at_once: bool) -> None:
        with self.proxied(keepalive=keepalive) as front:
            seen = self.second_requests(front)
            client = front.connect(handshake=False)
            if at_once:
                client.send(raw.request() + self.SECOND)
                assert client.recv_response().status == 101
            else:
                client.send(raw.request())
                assert client.recv_response().status == 101
                client.send(self.SECOND)
            # Read as a frame, it is an unmasked one with reserved bits.
            assert client.recv_close().code == 1002
            assert client.recv_until_eof() == b""
            assert take(front.live.ended).conn.close_cause is CloseCause.PROTOCOL
            assert seen == []
            assert front.live.server.counters()["answered_101"] == 1

    @pytest.mark.parametrize("keepalive", [False, True], ids=["", "keepalive"])
    @pytest.mark.parametrize(
        ("change", "statuses"),
        [
            # A proxy that took the request for the promise of a tunnel would let anything through behind it.
            ((b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 1337"), (426, 400)),
            ((b"Sec-WebSocket-Version: 13\r\n", b""), (426, 400)),
            ((b"Upgrade: websocket", b"Upgrade: h2c"), (426,)),
            ((b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x"), (400,)),
            ((b"GET / ", b"GET /forbidden "), (403,)),
            ((b"GET ", b"POST "), (405, 400)),
        ],
        ids=["version", "no version", "h2c", "key", "refused by a hook", "method"],
    )
    def test_request_behind_a_refused_one_is_one_of_its_own(
        self, keepalive: bool, change: tuple[bytes, bytes], statuses: tuple[int, ...]
    ) -> None:
        with self.proxied(keepalive=keepalive) as front:
            seen = self.second_requests(front)
            if 403 in statuses:
                front.live.server.on_request = lambda request: Reject(403, "not you")
            client = front.connect(handshake=False)
            client.send(raw.request().replace(*change) + self.SECOND)
            assert client.recv_response().status in statuses
            client.recv_body()
            # A proxy that reads HTTP may well pass the second request on: over another connection, as a request that
            # it has read itself.
            assert seen == (["/second"] if self.rest_of(client).endswith(b"second") else [])
            client.close()
            self.assert_one_request_a_connection(front)
            assert self.reads_http or seen == []

    @pytest.mark.parametrize("length", [b"5", b"0x5", b"5, 5", b"-1"])
    def test_upgrade_with_content_is_refused_whatever_it_hides(self, length: bytes) -> None:
        with self.proxied(keepalive=True) as front:
            seen = self.second_requests(front)
            client = front.connect(handshake=False)
            request = raw.request().replace(b"Host:", b"Content-Length: " + length + b"\r\nHost:", 1)
            client.send(request + b"GET /" + self.SECOND)
            assert client.recv_response().status == 400
            client.recv_body()
            assert seen == (["/second"] if self.rest_of(client).endswith(b"second") else [])
            client.close()
            self.assert_one_request_a_connection(front)
            assert self.reads_http or seen == []

    def test_many_requests_of_one_client_are_as_many_connections(self) -> None:
        with self.proxied(keepalive=True) as front:
            seen = self.second_requests(front)
            for _ in range(5):
                client = front.connect(handshake=False)
                client.send(self.SECOND)
                assert client.recv_response().status == 200
                assert client.recv_body() == b"second"
                client.close()
            assert seen == ["/second"] * 5
            if self.reads_http:
                self.assert_one_request_a_connection(front)

    # --- time, and the server's end ---

    def test_silence_ends_at_the_proxy(self) -> None:
        with self.proxied(idle="500ms", ping_interval=None) as front:
            client, conn = front.connect_conn()
            began = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                assert client.recv_until_eof() == b""
            assert time.monotonic() - began > 0.25
            assert take(front.live.ended) == Ended(conn, 1006, "")
            assert conn.close_cause is CloseCause.LOST

    def test_pings_keep_a_silent_connection(self) -> None:
        with self.proxied(idle="500ms", ping_interval=0.15, ping_timeout=TIMEOUT) as front:
            client, conn = front.connect_conn()
            until = time.monotonic() + 1.2
            pings = 0
            while time.monotonic() < until:
                got = client.recv_frame()
                assert got.opcode == PING, got
                client.send_frame(PONG, got.payload)
                pings += 1
            assert conn.is_open and pings > 3

    def test_server_that_stops_says_goodbye_and_another_takes_its_place(self) -> None:
        with self.proxied() as front:
            client = front.connect()
            server = front.live.server
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            try:
                assert client.recv_close().code == 1001
                client.send_close(1001)
                client.recv_until_eof()
            finally:
                stopping.join(TIMEOUT)
            refused = front.connect(handshake=False)
            refused.send(raw.request())
            if self.gone:
                assert refused.recv_response().status in self.gone
            else:
                with contextlib.suppress(ConnectionResetError):
                    assert refused.recv_until_eof() == b""
            server.start()

            def serves() -> bool:
                again = front.connect(handshake=False)
                again.send(raw.request())
                with contextlib.suppress(EOFError, ConnectionResetError):
                    return again.recv_response().status == 101
                return False

            wait_until(serves, "the proxy finds the server again", 20)

    def test_messages_before_the_server_s_end_arrive(self) -> None:
        said = threading.Event()

        def answer(conn: Any) -> None:
            for i in range(100):
                conn.send(str(i))
            conn.close(4000)
            said.set()

        with self.proxied(on_read=answer) as front:
            client = front.connect()
            client.send_frame(TEXT, b"go")
            wait(said)
            for i in range(100):
                assert client.recv_frame() == Frame(True, 0, TEXT, str(i).encode())
            assert client.recv_frame().opcode == CLOSE
