"""Listening: the sockets that `address.parse` writes about, opened, prepared for the engine, and given back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .address import Activated, Address, Descriptor, Where, plain_host
from .durations import milliseconds, seconds
from .errors import AddressError

if TYPE_CHECKING:
    from .options import Options

__all__ = ["MAX_LISTENERS", "Listener", "bound_address", "listen", "listen_all"]

logger = logging.getLogger("unlimitedws")

MAX_LISTENERS = 16
"""Listening sockets of one server; the engine's UWS_MAX_LISTENERS."""

# What a kernel without IPv6, or with IPv6 switched off by sysctl, answers to socket() and bind().
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL, errno.ENOPROTOOPT)
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_FIRST_PASSED_FD = 3
# Probes go out six times as often as silence makes the first one, and the third one that is lost is the end.
_KEEPALIVE_PART = 6
_KEEPALIVE_PROBES = 3
# Who holds the lock only binds a socket, or removes its file; whoever keeps it longer is not one of us. Who removes a
# file does not wait as long as who wants to listen: a file that stays is replaced by the next to come.
_LOCK_TIMEOUT = 5.0
_REMOVE_TIMEOUT = 0.1
_LOCK_PAUSE = 0.01
# Of open(2), where what has the name of a lock file is a link, a socket or a directory.
_NO_LOCK_FILE = (errno.ELOOP, errno.ENXIO, errno.EISDIR)


class Listener:
    """A listening socket: non-blocking, not inherited by child programs; and what is to be done at its end.

    Attributes:
        sock: The socket.
        address: Where it is bound.
        again: Where to listen to have the same again: with the port that the kernel chose.
    """

    def __init__(
        self, sock: socket.socket, again: Where, *, owned: bool = True, file: os.stat_result | None = None
    ) -> None:
        self.sock = sock
        self.address = bound_address(sock)
        self.again = again
        self._owned = owned
        self._file = file
        self._pid = os.getpid()

    def fileno(self) -> int:
        """Return the descriptor, for the engine."""
        return self.sock.fileno()

    @property
    def is_shared(self) -> bool:
        """Whether other processes may accept from the socket too: who drains leaves newcomers to them."""
        return not self._owned

    def refuse(self) -> None:
        """Refuse newcomers from now on, those in the backlog too. Fails, unnoticed, the second time.

        Not those of an inherited socket: it is shared with whoever passed it, and what waits in its backlog is
        served by the next program that gets it, or by this one once it starts again. Nor in a child process, a
        worker: the others go on.

        Takes no lock: signal handlers and callbacks call it.
        """
        if self._owned and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the socket, and remove its file if it is still ours."""
        try:
            # A child process has a copy of the socket, and the file is its parent's.
            if self._file is not None and self._pid == os.getpid():
                _remove(self.address.host.partition(":")[2], self._file)
        finally:
            self._file = None
            self.sock.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.address}>"


def bound_address(sock: socket.socket) -> Address:
    """Return where a socket is bound."""
    name = sock.getsockname()
    if sock.family != socket.AF_UNIX:
        return Address(plain_host(name[0]), name[1])
    # Abstract names are bytes here, and begin with the zero byte that we write as @.
    text = os.fsdecode(name)
    return Address("unix:" + ("@" + text[1:] if text.startswith("\0") else text), 0)


def listen_all(places: Sequence[Where], options: Options) -> list[Listener]:
    """Listen in several places: in all of them or in none.

    Raises:
        OSError, AddressError: As `listen`, for the first that cannot be had.
        ValueError: They are more sockets than one server can have.
    """
    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(one) for place in places for one in listen(place, options)]
        if len(listeners) > MAX_LISTENERS:
            raise ValueError(f"{len(listeners)} listening sockets; one server has at most {MAX_LISTENERS}")
        opened.pop_all()
    return listeners


def listen(place: Where, options: Options) -> list[Listener]:
    """Open the listening socket of one place; of the service manager's sockets, all that are meant.

    A host's name may have several addresses: the first IPv4 one is taken, as in Go, or the first one where it
    has none. Without a host, and for ``::``, IPv6 and IPv4 are served on one socket, as in Go, or IPv4 alone
    where the machine has no IPv6; ``0.0.0.0`` is IPv4 alone.

    A Unix socket's file gets `options.unix_mode`. A file that is there already is removed if it is a socket
    that nobody listens on; otherwise the address is in use. All of that, until the socket listens, happens
    under a lock (flock) of a file beside it, ``.NAME.lock``, so that of two servers that start together one
    gets the address and the other is told so. That file is there for no longer.

    Raises:
        OSError: The address cannot be had: in use, not ours, not permitted. The message names it.
        AddressError: The host's name is unknown, or what was inherited is no listening stream socket.
    """
    if isinstance(place, Descriptor):
        return [_adopt(place.fd, place, options)]
    if isinstance(place, Activated):
        with contextlib.ExitStack() as opened:
            listeners = [opened.enter_context(_adopt(fd, place, options)) for fd in _passed_sockets(place)]
            opened.pop_all()
        return listeners
    if place.is_unix:
        return [_open_unix(place, options)]
    try:
        return [_open_tcp(place, *_resolve(place), options)]
    except OSError as exc:
        if not place.host and exc.errno in _NO_IPV6:
            return [_open_tcp(place, socket.AF_INET, ("0.0.0.0", place.port), options)]
        raise


# TCP


def _resolve(addr: Address) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    if not addr.host:
        return socket.AF_INET6, ("::", addr.port)
    try:
        found = socket.getaddrinfo(addr.host, addr.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as exc:
        raise AddressError(f"address {str(addr)!r}: host {addr.host!r} is unknown: {exc}") from exc
    family, _, _, _, sockaddr = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, sockaddr


def _open_tcp(
    addr: Address, family: socket.AddressFamily, sockaddr: tuple[Any, ...], options: Options
) -> Listener:
    sock = _socket(family)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _set_tcp_options(sock, options)
        sock.bind(sockaddr)
        sock.listen(options.backlog)
    except OSError as exc:
        sock.close()
        raise _cannot(addr, exc) from exc
    return Listener(sock, Address(addr.host, sock.getsockname()[1]))


def _set_tcp_options(sock: socket.socket, options: Options) -> None:
    """Set what accepted sockets inherit on Linux: no system call for each connection."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, options.tcp_nodelay)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, options.tcp_keepalive is not None)
    if options.tcp_keepalive is not None:
        idle = max(round(seconds(options.tcp_keepalive, "tcp_keepalive")), 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(idle // _KEEPALIVE_PART, 1))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    patience = options.tcp_user_timeout
    limit = 0 if patience is None else milliseconds(patience, "tcp_user_timeout")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)


# Unix sockets


def _open_unix(addr: Address, options: Options) -> Listener:
    path = addr.host.partition(":")[2]
    sock = _socket(socket.AF_UNIX)
    try:
        if path.startswith("@"):
            sock.bind(b"\0" + os.fsencode(path[1:]))
            sock.listen(options.backlog)
            return Listener(sock, addr)
        with _locked(path, _LOCK_TIMEOUT):
            # The kernel makes the file with this mode less the umask, so it is never more open than it will be.
            os.fchmod(sock.fileno(), options.unix_mode)
            _bind(sock, path)
            try:
                file = os.lstat(path)
                if stat.S_IMODE(file.st_mode) != options.unix_mode:
                    os.chmod(path, options.unix_mode)
                # Before the lock goes: until it listens it looks as if nobody did.
                sock.listen(options.backlog)
            except OSError:
                os.unlink(path)
                raise
            return Listener(sock, addr, file=file)
    except OSError as exc:
        sock.close()
        raise _cannot(addr, exc) from exc


def _bind(sock: socket.socket, path: str) -> None:
    """Bind to a path, in place of a socket that nobody listens on. The path is locked."""
    try:
        sock.bind(path)
        return
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EADDRINUSE, "there is a file of that name, and it is not a socket")
    if not _is_abandoned(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if _is_same(os.lstat(path), found):
        os.unlink(path)
        logger.info("removed %s, a socket that nobody listens on", path)
    sock.bind(path)


def _is_abandoned(path: str) -> bool:
    with _socket(socket.AF_UNIX) as probe:
        # Anything but a refusal means that somebody is there: EAGAIN a full backlog, EPROTOTYPE a datagram socket.
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _remove(path: str, file: os.stat_result) -> None:
    """Remove the file of a socket that is still open: its inode cannot be another's until we close it."""
    try:
        with _locked(path, _REMOVE_TIMEOUT):
            if _is_same(os.lstat(path), file):
                os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as exc:
        # It stays, and whoever listens there next will see that it is stale.
        logger.warning("%s could not be removed: %s", path, exc.strerror)


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


@contextlib.contextmanager
def _locked(path: str, timeout: float) -> Iterator[None]:
    """Hold the lock of a socket's path: of a file beside it, so that only who may write to the directory can.

    The directory itself could be locked by everybody who may read it. The file goes before its lock does: then
    whoever waited for that has the lock of a file that is not there any more, and begins anew.
    """
    directory, name = os.path.split(path)
    beside = os.path.join(directory, f".{name}.lock")
    fd = _lock(beside, timeout)
    try:
        try:
            yield
        finally:
            try:
                os.unlink(beside)
            except FileNotFoundError:
                pass
            except OSError as exc:
                # One that is left behind can be locked like any other.
                logger.warning("%s could not be removed: %s", beside, exc.strerror)
            # A child process made meanwhile has the descriptor too, and closing ours would not let go.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _lock(path: str, timeout: float) -> int:
    """Lock the file of that path, made if there is none; return its descriptor.

    Raises:
        OSError: It cannot be made; it is somebody else's, or no file; or another program has it locked.
    """
    deadline = time.monotonic() + timeout
    was_there = True
    while True:
        try:
            fd = _try_lock(path)
        except PermissionError as exc:
            # Either none can be made, or it is somebody else's: of who listens there too and has it for a moment, or
            # of who has left it behind.
            is_there = os.path.lexists(path)
            if not is_there and not was_there:
                raise
            if time.monotonic() >= deadline:
                raise OSError(exc.errno, f"{path} is another user's, and may not be locked") from exc
            was_there = is_there
        else:
            if fd is not None:
                return fd
            if time.monotonic() >= deadline:
                raise OSError(errno.EAGAIN, f"another program keeps {path} locked")
        time.sleep(_LOCK_PAUSE)


def _try_lock(path: str) -> int | None:
    """Lock the file of that path, made if there is none; None where another has it locked, or has just removed it."""
    try:
        # For writing: NFS locks no other.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno in _NO_LOCK_FILE:
            raise OSError(exc.errno, f"{path} is no lock file") from exc
        raise
    is_held = False
    try:
        file = os.fstat(fd)
        if not stat.S_ISREG(file.st_mode):
            raise OSError(errno.EINVAL, f"{path} is no lock file")
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = _is_same(os.lstat(path), file)
        return fd if is_held else None
    finally:
        if not is_held:
            os.close(fd)


# Inherited sockets


def _adopt(fd: int, place: Where, options: Options) -> Listener:
    """Listen on an inherited socket, by a descriptor of our own: the one we were given stays as it is."""
    name = str(place) if isinstance(place, Descriptor) else f"{place}: descriptor {fd}"
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise AddressError(f"address {name!r}: not a socket")
        # fcntl, unlike dup(2), makes one that is closed on exec.
        sock = socket.socket(fileno=fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0))
    except OSError as exc:
        raise AddressError(f"address {name!r}: {exc.strerror}") from exc
    try:
        if sock.family not in _FAMILIES:
            raise AddressError(f"address {name!r}: neither a TCP socket nor a Unix socket")
        if sock.type != socket.SOCK_STREAM:
            raise AddressError(f"address {name!r}: not a stream socket")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise AddressError(f"address {name!r}: the socket does not listen")
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            _set_tcp_options(sock, options)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, Descriptor(fd), owned=False)


_passed: list[tuple[int, str]] | None = None


def _passed_sockets(place: Activated) -> list[int]:
    fds = [fd for fd, name in _receive_passed() if place.name in (None, name)]
    if not fds:
        known = ", ".join(sorted({repr(name) for _, name in _receive_passed()})) or "none"
        raise AddressError(f"address {str(place)!r}: no such socket was passed; passed were: {known}")
    return fds


def _receive_passed() -> list[tuple[int, str]]:
    """Return (descriptor, name) of the sockets that the service manager passed, as sd_listen_fds(3) does.

    Once: the variables are taken away so that child programs do not think that they are meant, and what they
    said is remembered for who listens again.
    """
    global _passed
    if _passed is None:
        pid = os.environ.pop("LISTEN_PID", "")
        count = os.environ.pop("LISTEN_FDS", "")
        names = os.environ.pop("LISTEN_FDNAMES", None)
        passed = _parse_passed(pid, count, names)
        for fd, _ in passed:
            try:
                os.set_inheritable(fd, False)
            except OSError as exc:
                raise AddressError(f"LISTEN_FDS is {count}, and descriptor {fd} is none: {exc.strerror}") from exc
        _passed = passed
    return _passed


def _parse_passed(pid: str, count: str, names: str | None) -> list[tuple[int, str]]:
    # Another pid: they were meant for a program that started us.
    if pid != str(os.getpid()) or not re.fullmatch("[0-9]{1,4}", count, re.ASCII):
        return []
    fds = range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + int(count))
    labels = ["unknown"] * len(fds) if names is None else names.split(":")
    if len(labels) != len(fds):
        raise AddressError(f"LISTEN_FDS is {count}, and LISTEN_FDNAMES has {len(labels)} names")
    return list(zip(fds, labels, strict=True))


def _socket(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _cannot(addr: Address, exc: OSError) -> OSError:
    # The kernel's message does not say which address it was, and the reader of a log has to know.
    return OSError(exc.errno, f"cannot listen on {addr}: {exc.strerror}")
