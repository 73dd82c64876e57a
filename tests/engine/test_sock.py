"""sock: what each call of the kernel's comes back as."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from forbidding import possible, run_alone
from live import wait_until
from loops import listener
from uws_shims import sock_shim
from uws_shims.sock_shim import ACCEPT_BROKEN, ACCEPT_NONE, AGAIN, LOST

ROOT = Path(__file__).resolve().parents[2]
Pair = tuple[socket.socket, socket.socket]


def tcp_pair(host: str = "127.0.0.1") -> Pair:
    """Our end, non-blocking, and the client's."""
    with listener(host=host) as sock:
        sock.setblocking(True)
        client = socket.create_connection(sock.getsockname()[:2])
        ours, _ = sock.accept()
    ours.setblocking(False)
    client.settimeout(10)
    return ours, client


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest, no_fd_leaks: None) -> Iterator[Pair]:
    ours, client = tcp_pair(request.param)
    yield ours, client
    ours.close()
    client.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def readable(sock: socket.socket) -> None:
    assert select.select([sock], [], [], 10)[0]


def address(raw: bytes) -> tuple[int, str, int]:
    """Read a struct sockaddr: family, host, port."""
    (family,) = struct.unpack_from("=H", raw)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return family, "", 0
    (port,) = struct.unpack_from("!H", raw, 2)
    host = raw[4:8] if family == socket.AF_INET else raw[8:24]
    return family, socket.inet_ntop(family, host), port


def fill(sock: socket.socket) -> int:
    """Send until nothing more is taken."""
    sent, block = 0, bytes(65536)
    while (n := sock_shim.send(sock.fileno(), block)) > 0:
        sent += n
    assert n == AGAIN
    return sent


# --- receiving ---


def test_recv_gives_what_is_there_and_then_would_block(pair: Pair) -> None:
    ours, client = pair
    assert sock_shim.recv(ours.fileno(), 10) == AGAIN
    client.sendall(b"hello")
    readable(ours)
    assert sock_shim.recv(ours.fileno(), 3) == b"hel"
    assert sock_shim.recv(ours.fileno(), 10) == b"lo"
    assert sock_shim.recv(ours.fileno(), 10) == AGAIN


def test_recv_gives_what_came_before_the_fin_and_then_the_end(pair: Pair) -> None:
    ours, client = pair
    client.sendall(b"last")
    client.close()
    readable(ours)
    assert sock_shim.recv(ours.fileno(), 10) == b"last"
    readable(ours)
    assert sock_shim.recv(ours.fileno(), 10) == b""
    assert sock_shim.recv(ours.fileno(), 10) == b""


def test_recv_after_rst_is_lost(pair: Pair) -> None:
    ours, client = pair
    reset(client)
    readable(ours)
    assert sock_shim.recv(ours.fileno(), 10) == LOST


def test_calls_on_what_is_no_descriptor_are_lost() -> None:
    assert sock_shim.recv(-1, 10) == sock_shim.send(-1, b"x") == sock_shim.sendv(-1, [b"x"]) == LOST


def test_recv_goes_on_after_a_signal(no_fd_leaks: None) -> None:
    ours, client = tcp_pair()
    ours.setblocking(True)
    woken, wake = socket.socketpair()
    wake.setblocking(False)

    def answer() -> None:
        # The signal's byte: recv has been interrupted, or was about to begin.
        woken.recv(1)
        woken.recv(1)
        client.sendall(b"after")

    before = signal.signal(signal.SIGALRM, lambda *_: None)
    fd_before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        assert sock_shim.recv(ours.fileno(), 10) == b"after"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(fd_before)
        signal.signal(signal.SIGALRM, before)
        thread.join()
        for sock in (ours, client, woken, wake):
            sock.close()


# --- sending ---


def test_send_says_how_much_was_taken(pair: Pair) -> None:
    ours, client = pair
    assert sock_shim.send(ours.fileno(), b"hello") == 5
    assert client.recv(10) == b"hello"


def test_send_to_a_peer_that_does_not_read_would_block(pair: Pair) -> None:
    ours, client = pair
    sent = fill(ours)
    assert sock_shim.sendv(ours.fileno(), [b"a", b"b"]) == AGAIN
    ours.close()
    got = 0
    while chunk := client.recv(1 << 20):
        got += len(chunk)
    assert got == sent


def test_send_after_rst_is_lost_and_raises_no_sigpipe() -> None:
    program = """
import signal, socket, struct
from uws_shims import sock_shim
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
for send in (sock_shim.send, lambda fd, data: sock_shim.sendv(fd, [data, data])):
    ours, theirs = socket.socketpair()
    theirs.close()
    assert send(ours.fileno(), b"x") == sock_shim.LOST
    assert send(ours.fileno(), b"x") == sock_shim.LOST
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("count", [1, 2, 64])
def test_sendv_sends_the_parts_in_order(pair: Pair, count: int) -> None:
    ours, client = pair
    parts = [bytes([i]) * (i + 1) for i in range(count)]
    whole = b"".join(parts)
    assert sock_shim.sendv(ours.fileno(), parts) == len(whole)
    ours.close()
    got = b""
    while chunk := client.recv(65536):
        got += chunk
    assert got == whole


def test_sendv_may_take_a_part(pair: Pair) -> None:
    ours, _ = pair
    parts = [bytes(1 << 20)] * 16
    taken = sock_shim.sendv(ours.fileno(), parts)
    assert 0 < taken < 16 << 20


# --- ending ---


def test_end_sending_leaves_reading_as_it_was(pair: Pair) -> None:
    ours, client = pair
    sock_shim.send(ours.fileno(), b"bye")
    sock_shim.end_sending(ours.fileno())
    assert client.recv(10) == b"bye"
    assert client.recv(10) == b""
    client.sendall(b"still here")
    readable(ours)
    assert sock_shim.recv(ours.fileno(), 20) == b"still here"
    assert sock_shim.send(ours.fileno(), b"x") == LOST


def test_reset_lets_close_drop_the_connection(pair: Pair) -> None:
    ours, client = pair
    sock_shim.reset(ours.fileno())
    ours.close()
    with pytest.raises(ConnectionResetError):
        client.recv(10)


# --- accepting ---


@pytest.fixture
def listening(no_fd_leaks: None) -> Iterator[socket.socket]:
    with listener() as sock:
        yield sock


def test_accept_gives_a_descriptor_that_neither_blocks_nor_is_inherited(listening: socket.socket) -> None:
    assert sock_shim.accept(listening.fileno()) == ACCEPT_NONE
    with socket.create_connection(listening.getsockname()) as client:
        readable(listening)
        fd = sock_shim.accept(listening.fileno())
        assert fd >= 0
        assert not os.get_blocking(fd) and not os.get_inheritable(fd)
        assert os.fstat(fd).st_ino != os.fstat(client.fileno()).st_ino
        os.close(fd)
    assert sock_shim.accept(listening.fileno()) == ACCEPT_NONE


def test_accept_on_what_cannot_accept_is_broken(listening: socket.socket) -> None:
    connected, other = socket.socketpair()
    with socket.socket() as silent, socket.socket(type=socket.SOCK_DGRAM) as datagram, open(__file__) as file:
        for fd in (silent.fileno(), datagram.fileno(), connected.fileno(), file.fileno(), -1):
            assert sock_shim.accept(fd) == ACCEPT_BROKEN, fd
    connected.close()
    other.close()
    listening.shutdown(socket.SHUT_RD)
    assert sock_shim.accept(listening.fileno()) == ACCEPT_BROKEN


def test_accept_without_descriptors_is_starved_and_the_spare_one_helps() -> None:
    program = """
import os, resource, socket
from uws_shims import sock_shim
server = socket.create_server(("127.0.0.1", 0))
server.setblocking(False)
client = socket.create_connection(server.getsockname())
client.settimeout(10)
spare = sock_shim.spare()
assert os.readlink(f"/proc/self/fd/{spare}") == "/dev/null" and not os.get_inheritable(spare)
limit = max(int(name) for name in os.listdir("/proc/self/fd")) + 50
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
try:
    while True:
        os.dup(0)
except OSError:
    pass
assert sock_shim.accept(server.fileno()) == sock_shim.ACCEPT_STARVED
assert sock_shim.turn_away(server.fileno(), b"full") == sock_shim.ACCEPT_STARVED
assert sock_shim.spare() == -1
os.close(spare)
assert sock_shim.turn_away(server.fileno(), b"full") == 0
assert (client.recv(10), client.recv(10)) == (b"full", b"")
assert sock_shim.spare() == spare
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_turned_away_client_reads_the_response_and_a_clean_end(listening: socket.socket) -> None:
    assert sock_shim.turn_away(listening.fileno(), b"no") == ACCEPT_NONE
    with socket.create_connection(listening.getsockname(), timeout=10) as client:
        # Its request is there already: closing over unread data would be answered with RST.
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        readable(listening)
        assert sock_shim.turn_away(listening.fileno(), b"HTTP/1.1 503 Full\r\n\r\n") == 0
        assert client.recv(100) == b"HTTP/1.1 503 Full\r\n\r\n"
        assert client.recv(100) == b""


# --- addresses ---


def test_addresses_are_those_of_the_socket(pair: Pair) -> None:
    ours, client = pair
    family = ours.family
    assert address(sock_shim.peer(ours.fileno())) == (family, *client.getsockname()[:2])
    assert address(sock_shim.local(ours.fileno())) == (family, *ours.getsockname()[:2])


def test_addresses_are_still_known_after_rst(pair: Pair) -> None:
    ours, client = pair
    theirs, own = client.getsockname()[:2], ours.getsockname()[:2]
    reset(client)
    readable(ours)
    assert sock_shim.recv(ours.fileno(), 10) == LOST

    def unconnected() -> bool:
        try:
            ours.getpeername()
        except OSError:
            return True
        return False

    wait_until(unconnected, "getpeername knows the peer no more")
    assert address(sock_shim.peer(ours.fileno())) == (ours.family, *theirs)
    assert address(sock_shim.local(ours.fileno())) == (ours.family, *own)


def test_mapped_peer_of_a_socket_for_both_families() -> None:
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock,
        socket.create_connection(("127.0.0.1", sock.getsockname()[1])) as client,
        sock.accept()[0] as ours,
    ):
        expected = (socket.AF_INET6, "::ffff:127.0.0.1", client.getsockname()[1])
        assert address(sock_shim.peer(ours.fileno())) == expected


WITHOUT_PEERNAME = """
import errno, socket, sys
from forbidding import forbid
from uws_shims import sock_shim
with socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as sock:
    client = socket.create_connection(sock.getsockname()[:2])
    ours, _ = sock.accept()
    port = client.getsockname()[1]
forbid("getsockopt", errno.ENOPROTOOPT)
print(port, sock_shim.peer(ours.fileno()).hex())
"""


@possible
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_where_so_peername_is_unknown_getpeername_is_asked(host: str) -> None:
    port, found = run_alone(WITHOUT_PEERNAME, host).split()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    assert address(bytes.fromhex(found)) == (family, host, int(port))


@pytest.mark.parametrize("name", ["s", "a longer name than that of an IPv6 socket"])
def test_peer_of_a_unix_socket_is_known_after_its_end(tmp_path: Path, name: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as client:
        sock.bind(str(tmp_path / "server"))
        sock.listen()
        client.bind(str(tmp_path / name))
        client.connect(str(tmp_path / "server"))
        with sock.accept()[0] as ours:
            expected = struct.pack("=H", socket.AF_UNIX) + os.fsencode(tmp_path / name) + b"\0"
            for _ in range(2):
                assert sock_shim.peer(ours.fileno()).startswith(expected)
                client.close()


def test_reset_of_a_unix_socket_is_its_end() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    sock_shim.reset(ours.fileno())
    assert theirs.recv(10) == b""
    ours.close()
    theirs.close()


def test_what_has_no_address_has_none() -> None:
    assert sock_shim.peer(-1) is None and sock_shim.local(-1) is None
    with open(__file__) as file:
        assert sock_shim.peer(file.fileno()) is None
    with socket.socket() as unconnected, socket.socket(socket.AF_UNIX) as never:
        assert sock_shim.peer(unconnected.fileno()) is None and sock_shim.peer(never.fileno()) is None
    ours, theirs = socket.socketpair()
    assert address(sock_shim.peer(ours.fileno())) == (socket.AF_UNIX, "", 0)
    assert address(sock_shim.local(ours.fileno())) == (socket.AF_UNIX, "", 0)
    ours.close()
    theirs.close()


def run(program: str) -> subprocess.CompletedProcess[str]:
    head = f"import sys; sys.path[:0] = [{str(ROOT / 'src')!r}, {str(ROOT / 'tests')!r}]\n"
    return subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, timeout=60)
