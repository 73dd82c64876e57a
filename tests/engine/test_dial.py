"""Sockets of clients: connecting without waiting, from where, and a table of descriptors of one's own."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from errno import ECONNREFUSED
from pathlib import Path

import pytest
from uws_shims import dial_shim

from unlimitedws.loadgen.target import pack

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def connected(fd: int) -> int:
    select.select([], [fd], [], 10)
    return int(dial_shim.result(fd))


def test_connecting_does_not_wait_and_ends_well(listener: socket.socket) -> None:
    fd = dial_shim.start(pack(*listener.getsockname()))
    assert not os.get_blocking(fd) and not os.get_inheritable(fd)
    assert connected(fd) == 0
    peer, _ = listener.accept()
    with peer, socket.socket(fileno=os.dup(fd)) as ours:
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    dial_shim.end(fd, False)


def test_a_refusal_is_told_by_its_errno() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    fd = dial_shim.start(pack("127.0.0.1", port))
    assert connected(fd) == ECONNREFUSED
    dial_shim.end(fd, True)


def test_the_source_is_the_one_that_was_asked_for(listener: socket.socket) -> None:
    fd = dial_shim.start(pack(*listener.getsockname()), pack("127.0.3.7", 0))
    assert connected(fd) == 0
    peer, address = listener.accept()
    peer.close()
    assert address[0] == "127.0.3.7"
    dial_shim.end(fd, True)


def test_a_source_that_is_not_ours_is_refused_and_leaves_nothing_open(listener: socket.socket) -> None:
    with pytest.raises(OSError, match="dial_start"):
        dial_shim.start(pack(*listener.getsockname()), pack("192.0.2.1", 0))


def test_ipv6_with_and_without_a_source() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        for source in (None, pack("::1", 0)):
            fd = dial_shim.start(pack("::1", listener.getsockname()[1]), source)
            assert connected(fd) == 0
            listener.accept()[0].close()
            dial_shim.end(fd, True)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_unix_socket_with_a_full_backlog_is_worth_another_try(tmp_path: Path, abstract: bool) -> None:
    name = f"\0uws-{os.getpid()}" if abstract else str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen(0)
        packed = pack(name.replace("\0", "@"), 0)
        fds = [dial_shim.start(packed)]
        while fds[-1] >= 0:
            fds.append(dial_shim.start(packed))
        assert fds.pop() == dial_shim.AGAIN and 0 < len(fds) < 10
        listener.accept()[0].close()
        fds.append(dial_shim.start(packed))
        assert fds[-1] >= 0
        for fd in fds:
            dial_shim.end(fd, False)


@pytest.mark.parametrize("reset", [False, True])
def test_an_end_is_a_fin_or_a_reset(listener: socket.socket, reset: bool) -> None:
    fd = dial_shim.start(pack(*listener.getsockname()))
    assert connected(fd) == 0
    peer, _ = listener.accept()
    dial_shim.end(fd, reset)
    with peer:
        if reset:
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
        else:
            assert peer.recv(1) == b""


def test_addresses_are_written_as_the_kernel_reads_them() -> None:
    assert pack("127.0.0.1", 8000) == struct.pack("=H", 2) + b"\x1f\x40\x7f\x00\x00\x01" + bytes(8)
    assert len(pack("::1", 1)) == 28
