"""Behind nginx, configured as docs/deployment.md has it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import echo, serve, take
from raw import TEXT, Frame

from unlimitedws import Address

from .behind import Behind, Front, documented, free_port, program, replaced, room_for_nobody, running

NGINX = program("nginx")

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
    pytest.mark.usefixtures("no_fd_leaks"),
]

# What the distribution's nginx.conf has around a site, in a directory of its own and with nothing of the machine's.
AROUND = """
daemon off;
worker_processes 1;
pid {room}/pid;
error_log stderr info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {room}/body;
    proxy_temp_path {room}/proxy;
    fastcgi_temp_path {room}/fastcgi;
    uwsgi_temp_path {room}/uwsgi;
    scgi_temp_path {room}/scgi;
{site}
}}
"""


def run_nginx(
    room: Path, port: int, backend: str, idle: str | None = None, keepalive: bool = False
) -> contextlib.AbstractContextManager[None]:
    """Run nginx with the site of the documentation."""
    upstream = f"server {backend};" + (" keepalive 8;" if keepalive else "")
    site = documented("/etc/nginx/conf.d/chat.conf")
    site = replaced(site, {"listen": f"listen 127.0.0.1:{port};", "server 127.0.0.1:8000": upstream})
    if idle is not None:
        site = replaced(site, {"proxy_read_timeout": f"proxy_read_timeout {idle};"})
    if keepalive:
        # What nginx wants for keeping a connection: no Connection field of a request that is no upgrade.
        site = site.replace("close;", '"";', 1)
    config = room / "nginx.conf"
    config.write_text(AROUND.format(room=room, site=site))
    assert NGINX is not None
    return running([NGINX, "-p", str(room), "-e", "stderr", "-c", str(config)], port, room)


class TestNginx(Behind):
    gone = (502,)

    def run_proxy(
        self, room: Path, port: int, backend: str, idle: str | None, keepalive: bool
    ) -> contextlib.AbstractContextManager[None]:
        return run_nginx(room, port, backend, idle, keepalive)


class TestNginxOnAUnixSocket(Behind):
    """The same over a Unix socket: the server knows of the proxy only that it may connect."""

    gone = (502,)

    @contextlib.contextmanager
    def proxied(self, *, idle: str | None = None, keepalive: bool = False, **options: Any) -> Iterator[Front]:
        options.setdefault("on_read", echo)
        with room_for_nobody() as room:
            place = f"unix:{room}/chat.sock"
            with serve(place, unix_mode=0o666, trusted_proxies=["unix"], **options) as live:
                port = free_port()
                with run_nginx(room, port, place, idle, keepalive):
                    front = Front(live, port)
                    try:
                        yield front
                    finally:
                        front.close()


def test_permissions_of_the_socket_are_what_the_proxy_meets() -> None:
    """As nobody it may not connect to a socket that is root's alone; as the tests' own user it is the owner."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a proxy as somebody else")
    port = free_port()
    with (
        room_for_nobody() as room,
        serve(f"unix:{room}/chat.sock", trusted_proxies=["unix"]) as live,
        run_nginx(room, port, f"unix:{room}/chat.sock"),
    ):
        front = Front(live, port)
        client = front.connect(handshake=False)
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv_response().status == 502
        front.close()


def test_client_is_known_through_two_proxies() -> None:
    with (
        serve(on_read=echo, trusted_proxies=["127.0.0.1"]) as live,
        room_for_nobody() as inner_room,
        room_for_nobody() as outer_room,
    ):
        inner, outer = free_port(), free_port()
        with (
            run_nginx(inner_room, inner, f"127.0.0.1:{live.port}"),
            run_nginx(outer_room, outer, f"127.0.0.1:{inner}"),
        ):
            front = Front(live, outer)
            client, conn = front.connect_conn(headers=[("X-Forwarded-For", "203.0.113.9")])
            assert conn.remote_addr == Address("127.0.0.2", 0)
            client.send_frame(TEXT, b"through two")
            assert client.recv_frame() == Frame(True, 0, TEXT, b"through two")
            front.close()
            assert take(live.ended).conn is conn
