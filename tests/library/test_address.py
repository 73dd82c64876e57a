from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from unlimitedws import Address, AddressError
from unlimitedws.address import bound_address, listen, parse, plain_host


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":8000", "", 8000),
        (":0", "", 0),
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:8000", "::1", 8000),
        ("[::]:0", "::", 0),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
    ],
)
def test_address_is_parsed(text: str, host: str, port: int) -> None:
    assert parse(text) == Address(host, port) == (host, port)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no port"),
        ("8000", "no port; did you mean ':8000'"),
        ("localhost", "no port; did you mean 'localhost:8000'"),
        ("[::1]", r"no port; did you mean '\[::1\]:8000'"),
        ("[::1]8000", "no port"),
        ("[::1:8000", "bracket is not closed"),
        ("[localhost]:8000", "brackets are for IPv6"),
        ("::1:8000", "goes into brackets"),
        ("::", "goes into brackets"),
        (":", "port '' is not a number"),
        (":http", "port 'http' is not a number"),
        (":65536", "port '65536' is not a number from 0 to 65535"),
        (":-1", "port '-1'"),
        (":+1", r"port '\+1'"),
        (": 80", "port ' 80'"),
        (":8_0", "port '8_0'"),
        (":٨٠", "is not a number"),
        (":80\n", "is not a number"),
        ("http://localhost:80", "goes into brackets"),
        ("a b:80", "not a host name"),
        ("localhost/:80", "not a host name"),
        ("a\0b:80", "not a host name"),
    ],
)
def test_what_is_no_address_is_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(AddressError, match=message):
        parse(text)


def test_address_error_is_a_value_error() -> None:
    assert issubclass(AddressError, ValueError)


@pytest.mark.parametrize("value", [8000, None, b":8000"])
def test_address_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="an address is a str"):
        parse(value)


@pytest.mark.parametrize("text", [":8000", "127.0.0.1:8000", "[::1]:8000", "localhost:0"])
def test_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("::ffff:1:2", "::ffff:1:2"),
    ],
)
def test_mapped_address_is_plain_ipv4(host: str, plain: str) -> None:
    assert plain_host(host) == plain


@pytest.mark.parametrize(
    "addr", [Address("127.0.0.1", 0), Address("", 0), pytest.param(Address("::1", 0), marks=ipv6)]
)
def test_listening_socket_is_ready_for_the_engine(addr: Address) -> None:
    with listen(addr) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not os.get_blocking(sock.fileno())
        assert not os.get_inheritable(sock.fileno())
        assert bound_address(sock).port > 0


@pytest.mark.parametrize("nodelay", [True, False])
def test_accepted_socket_inherits_nodelay(nodelay: bool) -> None:
    with listen(Address("127.0.0.1", 0), nodelay=nodelay) as sock:
        sock.setblocking(True)
        with socket.create_connection(sock.getsockname()):
            accepted, _ = sock.accept()
            with accepted:
                assert bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is nodelay


@ipv6
@pytest.mark.parametrize("host", ["", "::"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
def test_no_host_is_both_families_on_one_socket(host: str, peer: str) -> None:
    with listen(Address(host, 0)) as sock:
        assert bound_address(sock).host == "::"
        sock.setblocking(True)
        with socket.create_connection((peer, bound_address(sock).port)):
            accepted, _ = sock.accept()
            with accepted:
                assert bound_address(accepted).host == peer


def test_ipv4_wildcard_is_ipv4_alone() -> None:
    with listen(Address("0.0.0.0", 0)) as sock:
        assert sock.family == socket.AF_INET


def test_name_is_resolved_to_ipv4_first() -> None:
    with listen(Address("localhost", 0)) as sock:
        assert bound_address(sock).host == "127.0.0.1"


class WithoutIPv6(socket.socket):
    """The socket of a kernel without IPv6: the one thing that this machine cannot be asked to be."""

    def __init__(self, family: int, *args: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *args)


def test_no_host_falls_back_to_ipv4_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with listen(Address("", 0)) as sock:
        assert bound_address(sock).host == "0.0.0.0"


def test_ipv6_host_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with pytest.raises(OSError) as caught:
        listen(Address("::1", 0))
    assert caught.value.errno == errno.EAFNOSUPPORT


def test_address_in_use_is_named_and_the_socket_closed(recwarn: pytest.WarningsRecorder) -> None:
    with listen(Address("127.0.0.1", 0)) as sock:
        addr = bound_address(sock)
        with pytest.raises(OSError, match=f"cannot listen on {addr}: ") as caught:
            listen(addr)
        assert caught.value.errno == errno.EADDRINUSE
    assert not recwarn.list


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0") as caught:
        listen(Address("192.0.2.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("host", ["host.invalid", "a" * 70 + ".invalid"])
def test_unknown_host_is_refused_by_name(host: str) -> None:
    with pytest.raises(AddressError, match=f"host '{host}' is unknown"):
        listen(Address(host, 0))


def test_port_is_free_again_at_once_after_connections() -> None:
    with listen(Address("127.0.0.1", 0)) as sock:
        addr = bound_address(sock)
        sock.setblocking(True)
        with socket.create_connection(addr):
            accepted, _ = sock.accept()
            accepted.close()  # first to close: its end stays in TIME_WAIT
    with listen(addr) as sock:
        assert bound_address(sock) == addr
