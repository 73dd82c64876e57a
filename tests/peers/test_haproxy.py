"""Behind HAProxy, configured as docs/deployment.md has it: on HTTP's level, and on TCP's with PROXY headers."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from live import echo, serve, take, wait_until
from raw import RawClient

from .behind import PROXY_HOST, Behind, Front, documented, free_port, program, replaced, room_for_nobody, running

HAPROXY = program("haproxy")

pytestmark = [
    pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed"),
    pytest.mark.usefixtures("no_fd_leaks"),
]

# Without chroot and without a socket of its own.
GLOBAL = """
global
    maxconn 200
    nbthread 1
"""


def run_haproxy(room: Path, config: str, port: int) -> contextlib.AbstractContextManager[None]:
    file = room / "haproxy.cfg"
    file.write_text(GLOBAL + config)
    assert HAPROXY is not None
    # -db: in the foreground, one process.
    return running([HAPROXY, "-db", "-f", str(file)], port, room)


class TestHAProxy(Behind):
    """On HTTP's level."""

    gone = (503,)

    def run_proxy(
        self, room: Path, port: int, backend: str, idle: str | None, keepalive: bool
    ) -> contextlib.AbstractContextManager[None]:
        config = documented("/etc/haproxy/haproxy.cfg")
        reuse = "http-reuse always\n    " if keepalive else ""
        config = replaced(config, {"bind": f"bind 127.0.0.1:{port}", "server chat1": f"{reuse}server chat1 {backend}"})
        if idle is not None:
            config = replaced(config, {"timeout tunnel": f"timeout tunnel {idle}"})
        return run_haproxy(room, config, port)


class OnTcp(Behind):
    """On TCP's level: what the proxy passes on it does not read."""

    options = {"trusted_proxies": [PROXY_HOST], "proxy_protocol": True}  # noqa: RUF012
    has_port = True
    reads_http = False
    send = "send-proxy-v2"

    def run_proxy(
        self, room: Path, port: int, backend: str, idle: str | None, keepalive: bool
    ) -> contextlib.AbstractContextManager[None]:
        config = documented("/etc/haproxy/haproxy.cfg, on TCP's level")
        assert config.count(" send-proxy-v2\n") == 1
        server = f"server chat1 {backend} {self.send}"
        config = replaced(config, {"bind": f"bind 127.0.0.1:{port}", "server chat1": server})
        if idle is not None:
            times = {f"timeout {end}": f"timeout {end} {idle}" for end in ("client", "server")}
            config = replaced(config, times)
        return run_haproxy(room, config, port)


class TestHAProxyWithHeadersOfVersion2(OnTcp):
    send = "send-proxy-v2"


class TestHAProxyWithHeadersOfVersion1(OnTcp):
    send = "send-proxy"


@pytest.mark.parametrize(
    "send",
    [
        "send-proxy-v2 proxy-v2-options crc32c",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        "send-proxy-v2-ssl",
        "send-proxy-v2-ssl-cn",
    ],
)
def test_headers_with_tlvs_are_read(send: str) -> None:
    proxy = OnTcp()
    proxy.send = send
    with proxy.proxied() as front:
        for _ in range(3):
            client, conn = front.connect_conn()
            assert conn.remote_addr == client.address


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_health_checks_come_and_go(send: str) -> None:
    proxy = OnTcp()
    proxy.send = f"{send} check inter 50ms check-send-proxy"
    with proxy.proxied() as front:
        server = front.live.server
        wait_until(lambda: server.counters()["accepted"] >= 5, "five checks")
        client, conn = front.connect_conn()
        assert conn.remote_addr == client.address
        client.close_cleanly()
        figures = server.counters()
        # A check that was answered with an error would have taken the server out.
        assert figures["refused"] == 0


def test_direct_client_cannot_pretend_to_be_the_proxy() -> None:
    with (
        serve(on_read=echo, trusted_proxies=["127.0.0.9"], proxy_protocol=True) as live,
        RawClient(live.port, handshake=False) as client,
    ):
        client.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
        assert client.recv_response().status == 403


def test_proxy_that_sends_no_header_is_refused() -> None:
    proxy = OnTcp()
    proxy.send = ""
    with proxy.proxied() as front:
        client = front.connect(handshake=False)
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv_response().status == 400


def test_unix_socket_behind_haproxy() -> None:
    config = documented("/etc/haproxy/haproxy.cfg, on TCP's level")
    with room_for_nobody() as room:
        options = {"unix_mode": 0o666, "trusted_proxies": ["unix"], "proxy_protocol": True}
        with serve(f"unix:{room}/chat.sock", on_read=echo, **options) as live:
            port = free_port()
            server = f"server chat1 unix@{room}/chat.sock send-proxy-v2"
            changed = replaced(config, {"bind": f"bind 127.0.0.1:{port}", "server chat1": server})
            with run_haproxy(room, changed, port):
                front = Front(live, port)
                client, conn = front.connect_conn()
                assert conn.remote_addr == client.address
                front.close()
                assert take(live.ended).conn is conn
