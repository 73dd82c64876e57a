from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from library.programs import ROOT
from raw import TIMEOUT

from unlimitedws import Address, AddressError, NewServer, Options
from unlimitedws.address import Descriptor, parse
from unlimitedws.listening import MAX_LISTENERS, Listener, listen, listen_all


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
pytestmark = pytest.mark.usefixtures("no_fd_leaks")


def open_one(place: str | Address, **options: Any) -> Listener:
    """Listen in one place."""
    (listener,) = listen(parse(place) if isinstance(place, str) else place, Options(**options))
    return listener


def accept_from(listener: Listener, peer: Any) -> socket.socket:
    """Connect to a listener; return its end of the connection."""
    listener.sock.settimeout(TIMEOUT)
    with socket.socket(listener.sock.family) as client:
        client.connect(peer)
        return listener.sock.accept()[0]


# --- TCP ---


@pytest.mark.parametrize("place", ["127.0.0.1:0", ":0", pytest.param("[::1]:0", marks=ipv6)])
def test_listening_socket_is_ready_for_the_engine(place: str) -> None:
    with open_one(place) as listener:
        assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not os.get_blocking(listener.fileno())
        assert not os.get_inheritable(listener.fileno())
        assert listener.address.port > 0
        assert listener.again == (parse(place)[0], listener.address.port)  # type: ignore[index]


TCP_OPTIONS = {
    "nodelay": (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "idle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "interval": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "probes": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "user_timeout_ms": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
}


def tcp_options(sock: socket.socket) -> dict[str, int]:
    return {name: sock.getsockopt(*where) for name, where in TCP_OPTIONS.items()}


@pytest.mark.parametrize("inherited", [False, True], ids=["own", "inherited"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {},
            {
                "nodelay": 1,
                "keepalive": 1,
                "idle": 60,
                "interval": 10,
                "probes": 3,
                "user_timeout_ms": 90_000,
            },
        ),
        (
            {"tcp_keepalive": 1.5, "tcp_user_timeout": 1.5},
            {"keepalive": 1, "idle": 2, "interval": 1, "probes": 3, "user_timeout_ms": 1500},
        ),
        ({"tcp_keepalive": 0.01}, {"keepalive": 1, "idle": 1, "interval": 1}),
        (
            {"tcp_nodelay": False, "tcp_keepalive": None, "tcp_user_timeout": None},
            {"nodelay": 0, "keepalive": 0, "user_timeout_ms": 0},
        ),
    ],
)
def test_accepted_socket_has_the_options(inherited: bool, options: Any, expected: dict[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        # What the one who passed it had set does not stand.
        passed.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 77)
        place = f"fd:{passed.fileno()}" if inherited else "127.0.0.1:0"
        with open_one(place, **options) as listener, accept_from(listener, listener.address) as accepted:
            assert tcp_options(accepted).items() >= expected.items()


@pytest.mark.parametrize("value", [False, True])
def test_option_of_the_socket_holds_for_a_server_that_runs(value: bool) -> None:
    server = NewServer("127.0.0.1:0", tcp_nodelay=value)
    with server:
        (listener,) = server._listeners
        assert bool(tcp_options(listener.sock)["nodelay"]) is value


@ipv6
@pytest.mark.parametrize("place", [":0", "[::]:0"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
def test_no_host_is_both_families_on_one_socket(place: str, peer: str) -> None:
    with open_one(place) as listener:
        assert listener.address.host == "::"
        listener.sock.settimeout(TIMEOUT)
        with (
            socket.create_connection((peer, listener.address.port), TIMEOUT),
            listener.sock.accept()[0] as accepted,
        ):
            assert accepted.family == socket.AF_INET6


def test_ipv4_wildcard_is_ipv4_alone() -> None:
    with open_one("0.0.0.0:0") as listener:
        assert listener.sock.family == socket.AF_INET


def test_name_is_resolved_to_ipv4_first() -> None:
    with open_one("localhost:0") as listener:
        assert listener.address.host == "127.0.0.1"


class WithoutIPv6(socket.socket):
    """The socket of a kernel without IPv6: the one thing that this machine cannot be asked to be."""

    def __init__(self, family: int, *args: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *args)


def test_no_host_falls_back_to_ipv4_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with open_one(":0") as listener:
        assert listener.address.host == "0.0.0.0"


def test_ipv6_host_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with pytest.raises(OSError) as caught:
        open_one("[::1]:0")
    assert caught.value.errno == errno.EAFNOSUPPORT


def test_address_in_use_is_named() -> None:
    with open_one("127.0.0.1:0") as listener:
        with pytest.raises(OSError, match=f"cannot listen on {listener.address}: ") as caught:
            open_one(listener.address)
        assert caught.value.errno == errno.EADDRINUSE


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0") as caught:
        open_one("192.0.2.1:0")
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("host", ["host.invalid", "a" * 70 + ".invalid"])
def test_unknown_host_is_refused_by_name(host: str) -> None:
    with pytest.raises(AddressError, match=f"host '{host}' is unknown"):
        open_one(f"{host}:0")


def test_port_is_free_again_at_once_after_connections() -> None:
    with open_one("127.0.0.1:0") as listener:
        again = listener.again
        with socket.create_connection(listener.address):
            listener.sock.settimeout(TIMEOUT)
            listener.sock.accept()[0].close()  # first to close: its end stays in TIME_WAIT
    with listen(again, Options())[0] as listener:
        assert listener.address == again


# --- several places ---


def test_in_all_places_or_in_none(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = [parse("127.0.0.1:0"), parse(f"unix:{path}"), Address(*taken.getsockname())]
        with pytest.raises(OSError, match="cannot listen on 127"):
            listen_all(places, Options())
    assert not path.exists()


def test_more_sockets_than_the_engine_takes_are_refused_at_once() -> None:
    places = ["127.0.0.1:0"] * MAX_LISTENERS
    server = NewServer(places)
    with server:
        assert len(server.local_addrs) == MAX_LISTENERS
    with pytest.raises(ValueError, match=f"{MAX_LISTENERS + 1} listening sockets; .* at most {MAX_LISTENERS}"):
        NewServer([*places, "127.0.0.1:0"])


def test_server_listens_in_every_place_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = NewServer([f"unix:{path}", "127.0.0.1:0", "127.0.0.1:0"])
    assert server.local_addr == Address(f"unix:{path}", 0) == server.local_addrs[0]
    before = server.local_addrs
    for _ in range(2):
        with server:
            assert server.local_addrs == before
            assert repr(server).startswith(f"<Server unix:{path} 127.0.0.1:{before[1].port} 127.0.0.1:")
            for address in server.local_addrs:
                assert upgrade(address) == 101


@pytest.mark.parametrize("nothing", [[], ()])
def test_no_place_at_all_is_refused(nothing: Any) -> None:
    with pytest.raises(ValueError, match="no address"):
        NewServer(nothing)


@pytest.mark.parametrize("wrong", [8000, None, b":8000", [8000], {":8000"}])
def test_place_of_another_type_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="an address is a str"):
        NewServer(wrong)


def dial(address: Address) -> socket.socket:
    """Connect to where a server listens."""
    sock = socket.socket(socket.AF_UNIX if address.is_unix else socket.AF_INET)
    try:
        sock.settimeout(TIMEOUT)
        if not address.is_unix:
            sock.connect(address)
        else:
            path = address.host.partition(":")[2]
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
    except BaseException:
        sock.close()
        raise
    return sock


REQUEST = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def upgrade(address: Address) -> int:
    """Connect and upgrade; return the status of the answer."""
    with dial(address) as sock:
        return upgrade_on(sock)


def upgrade_on(sock: socket.socket) -> int:
    sock.sendall(REQUEST)
    head = sock.recv(4096)
    assert head.startswith(b"HTTP/1.1 "), head
    return int(head[9:12])


# --- Unix sockets ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # The path of a test's directory may be too long for a Unix socket.
    assert len(str(tmp_path)) < 90
    return tmp_path / "s"


def abandon(path: Path) -> None:
    """Leave a socket's file behind, as a server does that is killed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
@pytest.mark.parametrize("mode", [None, 0o600, 0o660, 0o666, 0])
def test_file_has_the_mode_whatever_the_umask(path: Path, umask: int, mode: int | None) -> None:
    before = os.umask(umask)
    try:
        listener = open_one(f"unix:{path}", **({} if mode is None else {"unix_mode": mode}))
    finally:
        os.umask(before)
    with listener:
        assert stat.S_IMODE(path.lstat().st_mode) == (0o600 if mode is None else mode)
        assert stat.S_ISSOCK(path.lstat().st_mode)
        assert listener.address == Address(f"unix:{path}", 0)


def test_unix_socket_is_ready_for_the_engine(path: Path) -> None:
    with open_one(f"unix:{path}") as listener:
        assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert not os.get_blocking(listener.fileno())
        assert not os.get_inheritable(listener.fileno())


def test_file_is_removed_at_the_end(path: Path) -> None:
    open_one(f"unix:{path}").close()
    assert not path.exists()


def test_abandoned_file_is_replaced(path: Path) -> None:
    abandon(path)
    with open_one(f"unix:{path}") as listener, accept_from(listener, str(path)):
        pass


def test_socket_in_use_is_left_alone(path: Path) -> None:
    with open_one(f"unix:{path}") as listener:
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: ") as caught:
            open_one(f"unix:{path}")
        assert caught.value.errno == errno.EADDRINUSE
        with accept_from(listener, str(path)):
            pass


def test_socket_with_a_full_backlog_is_in_use(path: Path) -> None:
    with open_one(f"unix:{path}", backlog=1), socket.socket(socket.AF_UNIX) as a, socket.socket(socket.AF_UNIX) as b:
        for client in (a, b):
            client.setblocking(False)
            client.connect(str(path))
        with pytest.raises(OSError) as caught:
            open_one(f"unix:{path}")
        assert caught.value.errno == errno.EADDRINUSE
        assert path.exists()


def test_datagram_socket_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError) as caught:
            open_one(f"unix:{path}")
        assert caught.value.errno == errno.EADDRINUSE
        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo", "link to an abandoned socket"])
def test_what_is_no_socket_is_never_removed(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        abandon(path.with_suffix(".real"))
        path.symlink_to(path.with_suffix(".real"))
    before = path.lstat()
    with pytest.raises(OSError, match="it is not a socket") as caught:
        open_one(f"unix:{path}")
    assert caught.value.errno == errno.EADDRINUSE
    assert path.lstat() == before


def test_file_that_is_another_server_s_by_then_stays(path: Path) -> None:
    first = open_one(f"unix:{path}")
    first.refuse()
    # A second server takes the place of one that is draining ...
    with open_one(f"unix:{path}") as second:
        taken = path.lstat().st_ino
        # ... and the first one's end does not take it away again.
        first.close()
        assert path.lstat().st_ino == taken
        with accept_from(second, str(path)):
            pass
    assert not path.exists()


def test_file_that_was_removed_meanwhile_is_no_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listener = open_one(f"unix:{path}")
    path.unlink()
    listener.close()
    assert not caplog.records


def test_file_that_cannot_be_removed_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    room = path.parent / "room"
    room.mkdir()
    listener = open_one(f"unix:{room}/s")
    room.rename(path.parent / "elsewhere")
    room.write_text("in its place")
    listener.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{room}/s could not be removed" in caplog.text


def test_child_process_leaves_the_parents_file_alone(path: Path) -> None:
    with open_one(f"unix:{path}") as listener:
        pid = os.fork()
        if pid == 0:
            listener.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert path.exists()
    assert not path.exists()


def test_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"cannot listen on unix:{tmp_path}/no/s: No such file") as caught:
        open_one(f"unix:{tmp_path}/no/s")
    assert caught.value.errno == errno.ENOENT


# --- the lock of a path ---


def lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold the lock of a file or a directory, as another program does."""
    fd = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def as_nobody(work: Callable[[], str], before: Callable[[], object] = lambda: None) -> str:
    """Do some work in a child process that becomes another user's; return what it says, or which error it raised."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as said:
        pid = os.fork()
        if pid == 0:
            try:
                before()
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                os.write(writer, work().encode())
            except BaseException as exc:
                os.write(writer, repr(exc).encode())
            os._exit(0)
        os.close(writer)
        text = said.read()
        assert os.waitpid(pid, 0)[1] == 0
    return text


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def common(tmp_path: Path) -> Iterator[Path]:
    """A path in a directory that others may enter, as none of a test's own are."""
    with tempfile.TemporaryDirectory() as room:
        os.chmod(room, 0o755)
        yield Path(room, "s")


def test_who_may_only_read_the_directory_holds_up_nobody(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with holding(path.parent):
        server = NewServer(f"unix:{path}")
        server.start()
        server.stop()
        assert not path.exists()
    assert not caplog.records


def test_no_file_of_the_lock_stays(path: Path) -> None:
    with open_one(f"unix:{path}"):
        assert os.listdir(path.parent) == [path.name]
        with pytest.raises(OSError, match="in use"):
            open_one(f"unix:{path}")
        assert os.listdir(path.parent) == [path.name]
    assert os.listdir(path.parent) == []


def test_file_that_is_locked_is_beside_the_socket_and_for_its_owner_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    def bind(sock: socket.socket, where: str) -> None:
        modes.append(lock_of(path).lstat().st_mode)
        sock.bind(where)

    monkeypatch.setattr("unlimitedws.listening._bind", bind)
    before = os.umask(0)
    try:
        open_one(f"unix:{path}").close()
    finally:
        os.umask(before)
    assert modes == [stat.S_IFREG | 0o600]


@pytest.mark.parametrize("content", ["", "1234\n"])
def test_lock_file_that_a_killed_server_left_is_taken_over(path: Path, content: str) -> None:
    lock_of(path).write_text(content)
    open_one(f"unix:{path}").close()
    assert os.listdir(path.parent) == []


def test_socket_with_as_long_a_path_as_there_is_has_a_lock_too(path: Path) -> None:
    path = path.with_name("s" * (107 - len(str(path.parent)) - 1))
    open_one(f"unix:{path}").close()
    assert os.listdir(path.parent) == []


def test_path_that_stays_locked_is_an_error_that_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlimitedws.listening._LOCK_TIMEOUT", 0.05)
    with holding(lock_of(path)):
        with pytest.raises(OSError, match=f"another program keeps {lock_of(path)} locked") as caught:
            open_one(f"unix:{path}")
        assert caught.value.errno == errno.EAGAIN
        assert not path.exists()
        # Another socket of the same directory has a lock of its own.
        open_one(f"unix:{path}2").close()
    open_one(f"unix:{path}").close()


def test_path_that_stays_locked_does_not_hold_up_the_end(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = NewServer(f"unix:{path}")
    server.start()
    with holding(lock_of(path)):
        server.stop(0)
        assert path.exists()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{path} could not be removed: another program keeps {lock_of(path)} locked" in caplog.text
    with server:
        assert upgrade(server.local_addr) == 101
    assert os.listdir(path.parent) == []


def test_lock_of_a_file_that_is_not_there_any_more_counts_for_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, locked = fcntl.flock, []

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            locked.append(os.fstat(fd).st_ino)
            if len(locked) == 1:
                # Its holder removed it between our open() and our flock(), and the next one has made another.
                lock_of(path).rename(path.with_name("removed"))
                lock_of(path).touch()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with open_one(f"unix:{path}"):
        assert len(set(locked)) == len(locked) == 2
        assert sorted(os.listdir(path.parent)) == ["removed", path.name]


@pytest.mark.parametrize("kind", ["directory", "link", "dangling link", "fifo", "socket"])
def test_what_is_no_lock_file_is_never_removed(path: Path, kind: str) -> None:
    found = lock_of(path)
    if kind == "directory":
        found.mkdir()
    elif kind == "fifo":
        os.mkfifo(found)
    elif kind == "socket":
        abandon(found)
    else:
        found.symlink_to("precious")
        if kind == "link":
            path.with_name("precious").write_text("precious")
    before = found.lstat()
    with pytest.raises(OSError, match=f"cannot listen on unix:{path}: {found} is no lock file"):
        open_one(f"unix:{path}")
    assert found.lstat() == before
    assert not path.exists() and path.with_name("precious").exists() == (kind == "link")


@needs_root
def test_lock_file_of_another_user_is_an_error_that_says_so(common: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlimitedws.listening._LOCK_TIMEOUT", 0.05)
    common.parent.chmod(0o1777)
    lock_of(common).touch(0o600)
    said = as_nobody(lambda: repr(open_one(f"unix:{common}")))
    assert said.startswith("PermissionError(13")
    assert f"cannot listen on unix:{common}: {lock_of(common)} is another user's, and may not be locked" in said
    assert lock_of(common).exists()


@needs_root
def test_lock_file_that_another_user_has_for_a_moment_is_waited_for(
    common: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common.parent.chmod(0o777)
    lock_of(common).touch(0o600)
    real = os.path.lexists

    def lexists(where: str) -> bool:
        was_there = real(where)
        lock_of(common).unlink()
        return was_there

    monkeypatch.setattr(os.path, "lexists", lexists)
    assert as_nobody(lambda: repr(open_one(f"unix:{common}"))) == f"<Listener unix:{common}>"


@needs_root
def test_directory_that_is_not_ours_to_write_to_is_said_at_once(common: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlimitedws.listening._LOCK_TIMEOUT", 1e9)
    said = as_nobody(lambda: repr(open_one(f"unix:{common}")))
    assert said == f"PermissionError(13, 'cannot listen on unix:{common}: Permission denied')"


@needs_root
def test_file_in_a_directory_that_is_not_ours_any_more_stays(common: Path, caplog: pytest.LogCaptureFixture) -> None:
    made: list[Listener] = []

    def work() -> str:
        made[0].close()
        return caplog.messages[-1]

    said = as_nobody(work, before=lambda: made.append(open_one(f"unix:{common}")))
    assert said == f"{common} could not be removed: Permission denied"
    assert os.listdir(common.parent) == [common.name]


STARTER = """
import sys
from unlimitedws import Options
from unlimitedws.address import parse
from unlimitedws.listening import listen
place = parse("unix:" + sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    listener = listen(place, Options())[0]
except OSError as exc:
    print(exc.strerror, flush=True)
else:
    print("listening", flush=True)
    sys.stdin.readline()
"""


def test_of_servers_that_start_together_over_an_abandoned_file_one_gets_it(path: Path) -> None:
    abandon(path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(4)
    ]
    try:
        for starter in starters:
            assert starter.stdout is not None
            assert starter.stdout.readline() == "ready\n"
        for starter in starters:
            assert starter.stdin is not None
            starter.stdin.write("go\n")
            starter.stdin.flush()
        said = sorted(starter.stdout.readline() for starter in starters if starter.stdout is not None)
        assert said[-1] == "listening\n"
        assert all(line.startswith("cannot listen on") and "in use" in line for line in said[:-1]), said
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert os.listdir(path.parent) == [path.name]
    finally:
        for starter in starters:
            starter.kill()
            starter.communicate()


def test_abstract_socket_needs_no_file() -> None:
    name = f"unlimitedws-test-{os.getpid()}"
    with open_one(f"unix:@{name}") as listener:
        assert listener.address == Address(f"unix:@{name}", 0) == listener.again
        with accept_from(listener, f"\0{name}"):
            pass
        with pytest.raises(OSError, match=f"cannot listen on unix:@{name}: Address already in use"):
            open_one(f"unix:@{name}")


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_server_on_a_unix_socket_serves_and_starts_again(path: Path, kind: str) -> None:
    place = f"unix:{path}" if kind == "path" else f"unix:@unlimitedws-test-{os.getpid()}"
    server = NewServer(place)
    assert str(server.local_addr) == place
    for _ in range(2):
        with server:
            assert upgrade(server.local_addr) == 101
            if kind == "path":
                assert path.exists()
        assert not path.exists()
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            dial(server.local_addr)


def test_ends_of_a_unix_connection(path: Path) -> None:
    seen: list[tuple[Address, Address]] = []
    closed = threading.Event()
    server = NewServer(f"unix:{path}")

    @server.on_close
    def goodbye(conn: Any) -> None:
        seen.append((conn.remote_addr, conn.local_addr))
        closed.set()

    with server:
        for own in (None, str(path) + "-client", "\0unlimitedws-client"):
            with socket.socket(socket.AF_UNIX) as client:
                if own is not None:
                    client.bind(own)
                client.connect(str(path))
                assert upgrade_on(client) == 101
            assert closed.wait(TIMEOUT)
            closed.clear()
    here = Address(f"unix:{path}", 0)
    assert seen == [
        (Address("unix:", 0), here),
        (Address(f"unix:{path}-client", 0), here),
        (Address("unix:@unlimitedws-client", 0), here),
    ]


def test_abort_ends_a_unix_connection_at_once(path: Path) -> None:
    held = threading.Event()
    server = NewServer(f"unix:{path}")

    @server.on_connect
    def abort(conn: Any) -> None:
        conn.abort()
        # Its slot, and so its descriptor, stays until this returns.
        held.wait(3 * TIMEOUT)

    with server, dial(server.local_addr) as client:
        try:
            client.sendall(REQUEST)
            while client.recv(4096):
                pass
        finally:
            held.set()


# --- inherited sockets ---


@pytest.fixture
def passed() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_inherited_socket_is_made_ready_and_stays_the_callers(passed: socket.socket) -> None:
    passed.setblocking(True)
    os.set_inheritable(passed.fileno(), True)
    with open_one(f"fd:{passed.fileno()}") as listener:
        assert listener.fileno() != passed.fileno()
        assert listener.address == passed.getsockname()
        assert listener.again == Descriptor(passed.fileno())
        assert not os.get_blocking(listener.fileno())
        assert not os.get_inheritable(listener.fileno())
    assert os.get_inheritable(passed.fileno())
    assert passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_inherited_unix_socket_keeps_its_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(path))
        passed.listen()
        server = NewServer(f"fd:{passed.fileno()}")
        assert server.local_addr == Address(f"unix:{path}", 0)
        with server:
            assert upgrade(server.local_addr) == 101
        assert path.exists()


def not_a_socket() -> Any:
    return open(os.devnull)


def not_listening() -> Any:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_a_socket, "not a socket"),
        (lambda: socket.socket(type=socket.SOCK_DGRAM), "not a stream socket"),
        (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), "not a stream socket"),
        (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), "neither a TCP socket nor a Unix socket"),
        (not_listening, "does not listen"),
    ],
)
def test_descriptor_that_is_no_listening_stream_socket_is_refused(make: Callable[[], Any], message: str) -> None:
    with make() as other, pytest.raises(AddressError, match=f"'fd:{other.fileno()}': .*{message}"):
        NewServer(f"fd:{other.fileno()}")


def test_descriptor_that_is_not_open_is_refused() -> None:
    with pytest.raises(AddressError, match="'fd:999999': Bad file descriptor"):
        NewServer("fd:999999")


def test_what_waits_for_an_inherited_socket_is_served_after_a_new_start(passed: socket.socket) -> None:
    server = NewServer(f"fd:{passed.fileno()}")
    with server:
        assert upgrade(server.local_addr) == 101
    # Neither closed nor shut down: somebody else may be polling it.
    with dial(server.local_addr) as waiting:
        waiting.sendall(REQUEST)
        with server:
            assert waiting.recv(4096).startswith(b"HTTP/1.1 101")
            waiting.close()


# --- systemd ---

# Descriptors from 3 on are the sockets; LISTEN_PID has to be the process that asks.
ACTIVATE = """
import os, socket, sys
count, names, program = int(sys.argv[1]), sys.argv[2], sys.argv[3]
kept = []
for i in range(count):
    sock = socket.create_server(("127.0.0.1", 0))
    kept.append(sock.getsockname()[1])
    os.dup2(sock.detach(), 60 + i)
for i in range(count):
    os.dup2(60 + i, 3 + i, inheritable=True)
    os.close(60 + i)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), PORTS=" ".join(map(str, kept)))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(sys.executable, [sys.executable, "-c", program])
"""


def activated(count: int, names: str, program: str) -> str:
    """Run a program as systemd does that passes sockets; return what it prints."""
    head = "import os\nfrom unlimitedws import *\nports = [int(p) for p in os.environ['PORTS'].split()]\n"
    done = subprocess.run(
        [sys.executable, "-c", ACTIVATE, str(count), names, head + program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_every_socket_that_was_passed_is_listened_on() -> None:
    program = """
server = Server("systemd")
print([a.port for a in server.local_addrs] == ports)
print([name for name in os.environ if name.startswith("LISTEN_")])
print([os.get_inheritable(fd) for fd in (3, 4)])
server.start(); server.stop(); server.start()
print([a.port for a in server.local_addrs] == ports)
server.stop()
"""
    assert activated(2, "-", program).split("\n") == ["True", "[]", "[False, False]", "True"]


def test_sockets_are_chosen_by_their_name() -> None:
    program = """
web, admin = Server("systemd:web"), Server(["systemd:admin", "systemd:web"])
print([ports.index(a.port) for a in web.local_addrs], [ports.index(a.port) for a in admin.local_addrs])
try:
    Server("systemd:wbe")
except AddressError as exc:
    print(exc)
"""
    assert activated(3, "web:admin:web", program).split("\n") == [
        "[0, 2] [1, 0, 2]",
        "address 'systemd:wbe': no such socket was passed; passed were: 'admin', 'web'",
    ]


def test_sockets_without_names_are_called_unknown() -> None:
    assert activated(1, "-", 'print(Server("systemd:unknown").local_addr.port == ports[0])') == "True"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "no such socket was passed; passed were: none"),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, "no such socket was passed"),
        ({"LISTEN_PID": "self", "LISTEN_FDS": ""}, "no such socket was passed"),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "-1"}, "no such socket was passed"),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "0"}, "no such socket was passed"),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "99999999999"}, "no such socket was passed"),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, "LISTEN_FDNAMES has 2 names"),
    ],
)
def test_without_sockets_that_were_passed_to_us_there_is_nothing_to_listen_on(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlimitedws.listening._passed", None)
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "self" else value)
    with pytest.raises(AddressError, match=message):
        NewServer("systemd")
    # Whatever they said, no child program is to think that they are for it.
    assert not [name for name in os.environ if name.startswith("LISTEN_")]


def test_descriptor_that_systemd_did_not_pass_after_all_is_named() -> None:
    program = """
os.close(4)
try:
    Server("systemd")
except AddressError as exc:
    print(exc)
"""
    said = activated(2, "-", program)
    assert said == "LISTEN_FDS is 2, and descriptor 4 is none: Bad file descriptor"
