"""Behind a proxy, as the server sees it: PROXY headers and forwarding fields on the wire, believed or not."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import raw
from live import Live, each_mode, echo, expect_eof, send_bytewise, send_pieces, serve, take, wait_until
from raw import TEXT, Frame, RawClient

from unlimitedws import Address
from unlimitedws.auth import Origins

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
V2 = SIGNATURE + b"\x21\x11" + struct.pack("!H4s4sHH", 12, b"\xc0\0\x02\1", b"\xc6\x33\x64\2", 56324, 443)
V2_TCP6 = (
    SIGNATURE
    + b"\x21\x21"
    + struct.pack("!H16s16sHH", 36, socket.inet_pton(socket.AF_INET6, "2001:db8::1"), bytes(16), 1, 2)
)
V2_UNIX = SIGNATURE + b"\x21\x31" + struct.pack("!H108s108s", 216, b"/run/client", b"/run/proxy")
# With a TLV that says that the client speaks TLS.
V2_TLS = V2[:14] + struct.pack("!H", 12 + 8) + V2[16:] + b"\x20\0\x05\x01\0\0\0\0"
V2_LONG = V2[:14] + struct.pack("!H", 4080) + V2[16:] + b"\x04" + struct.pack("!H", 4080 - 15) + bytes(4080 - 15)
V2_LOCAL = SIGNATURE + b"\x20\0\0\0"

CLIENT = Address("192.0.2.1", 56324)
HEADERS = {
    "v1": (V1, CLIENT),
    "v2": (V2, CLIENT),
    "v2 with TLS": (V2_TLS, CLIENT),
    "v2, as long as may be": (V2_LONG, CLIENT),
    "v2, IPv6": (V2_TCP6, Address("2001:db8::1", 1)),
    "v2, Unix": (V2_UNIX, Address("unix:/run/client", 0)),
    "v1, mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 56324 2\r\n", CLIENT),
}
# The socket's own address stands.
NO_ADDRESS = {"v1": b"PROXY UNKNOWN\r\n", "v2": V2_LOCAL}

LOCALHOST = ("127.0.0.0/8",)
FORWARDED_BYTES = 1024

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


class Asked:
    """A decision on each request, which also remembers what it was asked about."""

    def __init__(self) -> None:
        self.requests: queue.Queue[Any] = queue.Queue()

    def __call__(self, request: Any) -> None:
        self.requests.put((request.remote_addr, request.is_secure, request.host))


@contextlib.contextmanager
def proxied(*, asked: Asked | None = None, addr: str = "127.0.0.1:0", **options: Any) -> Iterator[Live]:
    """Serve echoes to those who come through a proxy on this machine."""
    options = {"trusted_proxies": LOCALHOST, "proxy_protocol": True, **options}
    with serve(addr, on_read=echo, **options) as live:
        if asked is not None:
            live.server.on_request = asked
        yield live
        live.close_clients()
        wait_until(lambda: live.server.counters()["descriptors"] == 0, "every connection is over")
        figures = live.server.counters()
        assert {name: figures[name] for name in ("targets", "slab_blocks", "timers")} == {
            "targets": 0,
            "slab_blocks": 0,
            "timers": 0,
        }


def echoes(client: RawClient) -> None:
    client.send_frame(TEXT, b"hello")
    assert client.recv_frame() == Frame(True, 0, TEXT, b"hello")


def opened(live: Live) -> Any:
    return take(live.opened, "on_connect")


# --- the PROXY protocol ---


@each_mode
@pytest.mark.parametrize("asking", [False, True], ids=["engine decides", "hook decides"])
@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("cut", ["joined", "apart", "with a frame"])
def test_address_is_that_of_the_header(kind: str, cut: str, asking: bool, pool: tuple[int, int] | None) -> None:
    header, address = HEADERS[kind]
    asked = Asked() if asking else None
    with proxied(asked=asked, pool=pool) as live:
        client = live.connect(handshake=False)
        if cut == "apart":
            send_pieces(client, [header, raw.request()])
        elif cut == "joined":
            client.send(header + raw.request())
        else:
            client.send(header + raw.request() + raw.frame(TEXT, b"early"))
        assert client.recv_response().status == 101
        if cut == "with a frame":
            assert client.recv_frame() == Frame(True, 0, TEXT, b"early")
        conn = opened(live)
        assert conn.remote_addr == address
        assert conn.local_addr == live.server.local_addr
        if asked is not None:
            assert take(asked.requests) == (address, kind == "v2 with TLS", "127.0.0.1")
        echoes(client)
        client.close_cleanly()
        # The slot has forgotten it by now; the conn has not.
        assert take(live.ended).conn.remote_addr == address
        assert conn.remote_addr == address


@pytest.mark.parametrize("kind", ["v1", "v2 with TLS", "v2, Unix"])
def test_header_may_come_byte_by_byte(kind: str) -> None:
    header, address = HEADERS[kind]
    with proxied() as live:
        client = live.connect(handshake=False)
        send_bytewise(client, header + raw.request())
        assert client.recv_response().status == 101
        assert opened(live).remote_addr == address
        echoes(client)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_header_may_be_cut_anywhere(kind: str) -> None:
    header, address = HEADERS[kind]
    with proxied() as live:
        for at in range(1, len(header) + 3):
            data = header + raw.request()
            with RawClient(live.port, handshake=False) as client:
                send_pieces(client, [data[:at], data[at:]])
                assert client.recv_response().status == 101
                assert opened(live).remote_addr == address


@pytest.mark.parametrize("kind", NO_ADDRESS)
def test_header_without_an_address_leaves_the_socket_s(kind: str) -> None:
    with proxied() as live:
        client = live.connect(handshake=False)
        client.send(NO_ADDRESS[kind] + raw.request())
        assert client.recv_response().status == 101
        assert opened(live).remote_addr == client.address


def test_name_that_a_header_gives_forges_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    name = b"/x\nERROR:root:forged\x1b[31m"
    header = V2_UNIX[:16] + name.ljust(108, b"\0") + bytes(108)
    with proxied(trusted_proxies=LOCALHOST) as live:
        live.server.auth = Origins()
        with RawClient(live.port, handshake=False) as client:
            client.send(header + raw.request(headers=[("Origin", "http://evil.example")]))
            assert client.recv_response().status == 403
    told = [record.getMessage() for record in caplog.records]
    assert any("unix:/x\\nERROR:root:forged\\x1b[31m" in line for line in told)
    assert all(line.isprintable() for line in told)


def test_limit_of_the_request_s_head_is_the_request_s_own() -> None:
    with proxied(max_header_bytes=256) as live:
        fits = raw.request(path="/" + "p" * (256 - len(raw.request())))
        assert len(fits) == 256
        for request, status in ((fits, 101), (raw.request(path="/" + "p" * 200), 431)):
            for pieces in ([V2_LONG + request], [V2_LONG, request], [V2_LONG[:100], V2_LONG[100:] + request]):
                with RawClient(live.port, handshake=False) as client:
                    send_pieces(client, pieces)
                    got = client.recv_response().status
                    assert got == status or (status == 431 and got == 414)


@pytest.mark.parametrize(
    "data",
    [
        raw.request(),
        b"\r\n" + raw.request(),
        b"\x16\x03\x01\x02\0\x01",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 70000\r\n" + raw.request(),
        b"PROXY UNKNOWN" + b"x" * 200,
        V2[:12] + b"\x31" + V2[13:] + raw.request(),
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
    ids=["none", "an empty line", "TLS", "port", "too long", "version 3", "length"],
)
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
def test_connection_that_begins_with_anything_else_gets_400(data: bytes, bytewise: bool) -> None:
    with proxied() as live:
        client = live.connect(handshake=False)
        if bytewise:
            send_bytewise(client, data, stop_when_answered=True)
        else:
            client.send(data)
        assert client.recv_response().status == 400
        client.recv_body()
        expect_eof(client)
        assert live.opened.empty()


def test_second_header_is_a_bad_request() -> None:
    with proxied() as live:
        client = live.connect(handshake=False)
        client.send(V1 + V1 + raw.request())
        assert client.recv_response().status == 400


@pytest.mark.parametrize("data", [V1 + raw.request(), V2 + raw.request(), raw.request(), b"P"])
def test_who_is_no_trusted_proxy_gets_403_whatever_it_says(data: bytes) -> None:
    with proxied(trusted_proxies=["10.0.0.0/8", "unix", "::/0"]) as live:
        client = live.connect(handshake=False)
        client.send(data)
        assert client.recv_response().status == 403
        client.recv_body()
        expect_eof(client)
        assert live.opened.empty()


def test_without_the_option_a_header_is_a_bad_request() -> None:
    with proxied(proxy_protocol=False) as live:
        client = live.connect(handshake=False)
        client.send(V1 + raw.request())
        assert client.recv_response().status == 400


@pytest.mark.parametrize("sent", [b"", V1[:20], V1, V2[:14], V2 + b"GET"])
def test_header_and_request_have_one_deadline(sent: bytes) -> None:
    with proxied(handshake_timeout=0.1) as live:
        client = live.connect(handshake=False)
        if sent:
            client.send(sent)
        assert client.recv_response().status == 408


@pytest.mark.parametrize("sent", [V1[:20], V1, V2[:14], V2, V2 + b"GET"])
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_end_within_the_header_leaves_nothing_behind(sent: bytes, end: str) -> None:
    # What is left behind is counted at the end of proxied().
    with proxied() as live:
        client = live.connect(handshake=False)
        send_pieces(client, [sent])
        client.close() if end == "FIN" else client.reset()


def test_proxy_on_a_unix_socket_may_be_trusted(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/s"
    for trusted, status in ((["unix"], 101), (["0.0.0.0/0", "::/0"], 403)):
        with (
            proxied(addr=place, trusted_proxies=trusted) as live,
            socket.socket(socket.AF_UNIX) as client,
        ):
            client.settimeout(raw.TIMEOUT)
            client.connect(f"{tmp_path}/s")
            client.sendall(V1 + raw.request())
            assert client.recv(4096).startswith(b"HTTP/1.1 %d " % status)
            if status == 101:
                assert opened(live).remote_addr == CLIENT


# --- the fields ---


def connect_with(live: Live, *fields: tuple[str, str], prefix: bytes = b"") -> Any:
    """Connect with fields of the request; return the server's conn."""
    client = live.connect(handshake=False)
    client.send(prefix + raw.request(headers=fields))
    assert client.recv_response().status == 101
    return opened(live)


@each_mode
@pytest.mark.parametrize("asking", [False, True], ids=["engine decides", "hook decides"])
@pytest.mark.parametrize("field", ["X-Forwarded-For", "Forwarded"])
def test_client_is_whom_the_field_names(asking: bool, field: str, pool: tuple[int, int] | None) -> None:
    asked = Asked() if asking else None
    value = "198.51.100.7, 192.0.2.1" if field != "Forwarded" else "for=198.51.100.7, for=192.0.2.1"
    options = {"proxy_protocol": False, "forwarded_header": field.lower(), "pool": pool}
    with proxied(asked=asked, **options) as live:
        conn = connect_with(live, (field, value))
        assert conn.remote_addr == Address("192.0.2.1", 0)
        assert str(conn).startswith("<unlimitedws.Conn 192.0.2.1:0 / open")
        if asked is not None:
            assert take(asked.requests)[0] == Address("192.0.2.1", 0)
        live.close_clients()
        assert take(live.ended).conn.remote_addr == Address("192.0.2.1", 0) == conn.remote_addr


def test_lines_of_the_field_are_one_list() -> None:
    with proxied(proxy_protocol=False) as live:
        conn = connect_with(live, ("X-Forwarded-For", "198.51.100.7"), ("x-forwarded-for", "192.0.2.1"))
        assert conn.remote_addr == Address("192.0.2.1", 0)
        conn = connect_with(live, ("X-Forwarded-For", "192.0.2.1"), ("x-forwarded-for", "127.0.0.9"))
        assert conn.remote_addr == Address("192.0.2.1", 0)


@pytest.mark.parametrize("asking", [False, True], ids=["engine decides", "hook decides"])
def test_nobody_else_s_field_means_anything(asking: bool) -> None:
    asked = Asked() if asking else None
    for options in (
        {"trusted_proxies": ()},
        {"trusted_proxies": ["10.0.0.0/8", "unix"]},
        {"forwarded_header": "forwarded"},
    ):
        with proxied(asked=asked, proxy_protocol=False, **options) as live:
            client = live.connect(
                headers=[("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "a")]
            )
            assert opened(live).remote_addr == client.address
            if asked is not None:
                assert take(asked.requests)[:2] == (client.address, False)


def test_trusted_proxy_says_whether_the_client_speaks_tls_and_to_whom() -> None:
    asked = Asked()
    with proxied(asked=asked, proxy_protocol=False) as live:
        live.connect(
            headers=[
                ("X-Forwarded-For", "192.0.2.1"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "chat.example"),
            ]
        )
        assert take(asked.requests) == (Address("192.0.2.1", 0), True, "chat.example")


def test_without_the_field_the_client_is_the_peer() -> None:
    with proxied(proxy_protocol=False) as live:
        client = live.connect()
        assert opened(live).remote_addr == client.address


@pytest.mark.parametrize("length", [0, 900, 960, 1000, 1005, 1010, 1011, 1012, 1013, 1014, 1015, 1100, 6000])
def test_of_a_long_field_the_right_end_counts(length: int) -> None:
    with proxied(proxy_protocol=False) as live:
        # The last one is trusted, so that the one before it is looked at, however much is before that.
        value = "7" * length + ", 192.0.2.1, 127.0.0.9"
        assert connect_with(live, ("X-Forwarded-For", value)).remote_addr == Address("192.0.2.1", 0)


def test_what_is_cut_is_not_believed() -> None:
    with proxied(proxy_protocol=False) as live:
        ours = "127.0.0.9, " * 91 + "   127.0.0.8"
        assert len("192.0.2.1," + ours) == FORWARDED_BYTES - 1
        # Of 1192.0.2.1 what is left looks like an address. Known is the leftmost that is whole.
        conn = connect_with(live, ("X-Forwarded-For", f"1192.0.2.1,{ours}"))
        assert conn.remote_addr == Address("127.0.0.9", 0)


def test_field_of_whom_a_header_names_counts_if_that_is_trusted_too() -> None:
    trusted = [*LOCALHOST, "192.0.2.0/24"]
    field = ("X-Forwarded-For", "203.0.113.5")
    with proxied(trusted_proxies=trusted) as live:
        assert connect_with(live, field, prefix=V1).remote_addr == Address("203.0.113.5", 0)
    with proxied() as live:
        assert connect_with(live, field, prefix=V1).remote_addr == CLIENT


def test_plain_get_has_the_client_s_address_too() -> None:
    asked = Asked()

    def route(request: Any) -> str:
        asked(request)
        return "fine"

    with proxied() as live:
        live.server.route("/healthz", route)
        client = live.connect(handshake=False)
        client.send(V2_TLS + b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n")
        assert client.recv_response().status == 200
        assert take(asked.requests) == (CLIENT, True, "h")


def test_address_outlives_an_abort() -> None:
    with proxied() as live:
        conn = connect_with(live, prefix=V1)
        conn.abort()
        assert take(live.ended).conn.remote_addr == CLIENT == conn.remote_addr
