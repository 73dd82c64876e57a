"""peer: the addresses of both ends of a socket, of every family, as callbacks see them."""

from __future__ import annotations

import os
import queue
import socket
from pathlib import Path
from typing import Any

import pytest
import raw

from unlimitedws import Address, NewServer

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


def shake_hands(address: Address) -> socket.socket:
    """Connect with a name of its own where it is a Unix socket, so that there is one to be seen."""
    if address.is_unix:
        client = socket.socket(socket.AF_UNIX)
        name = address.host.removeprefix("unix:")
        if name.startswith("@"):
            client.bind(f"\0uws-peer-{os.getpid()}")
            client.connect("\0" + name[1:])
        else:
            client.bind(name + ".client")
            client.connect(name)
    else:
        client = socket.create_connection(address)
    client.settimeout(10)
    client.sendall(raw.request())
    assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
    return client


def test_both_ends_are_known_in_every_family(tmp_path: Path) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    path, name = tmp_path / "s", f"@uws-{os.getpid()}"
    server = NewServer(["127.0.0.1:0", "[::1]:0", f"unix:{path}", f"unix:{name}"])
    server.on_connect = lambda conn: seen.put((conn.local_addr, conn.remote_addr))
    with server:
        for address in server.local_addrs:
            with shake_hands(address) as client:
                local, remote = seen.get(timeout=10)
                assert local == address
                if address.is_unix:
                    own = f"@uws-peer-{os.getpid()}" if address.host == f"unix:{name}" else f"{path}.client"
                    assert remote == Address(f"unix:{own}", 0)
                else:
                    assert tuple(remote) == client.getsockname()[:2]


def test_request_that_is_kept_knows_both_ends_in_every_family_when_all_is_over(tmp_path: Path) -> None:
    requests: queue.Queue[Any] = queue.Queue()
    path, name = tmp_path / "s", f"@uws-{os.getpid()}"
    server = NewServer(["127.0.0.1:0", "[::1]:0", f"unix:{path}", f"unix:{name}"])
    server.on_request = requests.put
    expected = []
    with server:
        for address in server.local_addrs:
            with shake_hands(address) as client:
                if address.is_unix:
                    own = f"@uws-peer-{os.getpid()}" if address.host == f"unix:{name}" else f"{path}.client"
                    expected.append((address, Address(f"unix:{own}", 0)))
                else:
                    expected.append((address, Address(*client.getsockname()[:2])))
    seen = []
    for _ in expected:
        request = requests.get(timeout=10)
        seen.append((request.local_addr, request.remote_addr))
        assert str(request.remote_addr) in repr(request)
    assert seen == expected


def test_client_of_a_socket_for_both_families_has_a_plain_ipv4_address() -> None:
    seen: queue.Queue[Any] = queue.Queue()
    server = NewServer(":0")
    server.on_connect = lambda conn: seen.put(conn.remote_addr)
    with server, shake_hands(Address("127.0.0.1", server.local_addr.port)) as client:
        assert tuple(seen.get(timeout=10)) == client.getsockname()


def test_client_without_a_name_has_an_empty_one(tmp_path: Path) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    server = NewServer(f"unix:{tmp_path / 's'}")
    server.on_connect = lambda conn: seen.put(conn.remote_addr)
    with server, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        client.sendall(raw.request())
        assert seen.get(timeout=10) == Address("unix:", 0)
