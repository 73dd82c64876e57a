"""Peers that vanish: what they were sent is lost, and nothing comes from them any more, no ACK, no RST, no FIN.

Two ways to lose packets. A filter on the client's own socket drops what comes in before TCP sees it, which anybody may
do. And a network of three namespaces, client, router and server, whose router stops forwarding: packets die between
two hosts, in both directions, and the server's kernel has no peer on its own machine. That needs CAP_SYS_ADMIN and `ip`
of iproute2. Used by bench/floods.py and tests/abuse.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

SO_ATTACH_FILTER = 26
CLONE_NEWNET = 0x40000000

SERVER, CLIENT = "10.80.0.2", "10.81.0.2"
SERVER_GATE, CLIENT_GATE = "10.80.0.1", "10.81.0.1"


def fall_silent(sock: socket.socket) -> None:
    """Drop every packet that comes for this socket from now on; there is no acknowledging what was dropped.

    What the socket is made to send itself still goes out: leave it alone, and open, until the server has given up.
    """
    # One instruction: BPF_RET | BPF_K, keep 0 bytes.
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program)))


class NotToBeHad(Exception):
    """There is no such network here; the message says why."""


_libc = ctypes.CDLL(None, use_errno=True)


def _in_thread(work: Callable[[], T]) -> T:
    """Do work in a thread of its own: a namespace is entered by one thread, and left by none."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _checked(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


class Namespace:
    """A network namespace; it lives as long as this is open, and as sockets that were made in it."""

    def __init__(self) -> None:
        def make() -> int:
            _checked(_libc.unshare(CLONE_NEWNET), "unshare")
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        self.fd = _in_thread(make)

    def inside(self, work: Callable[[], T]) -> T:
        """Do work with this namespace's network; what it opens stays there."""

        def run() -> T:
            _checked(_libc.setns(self.fd, CLONE_NEWNET), "setns")
            return work()

        return _in_thread(run)

    def ip(self, words: str) -> None:
        """Run a command of `ip`. Raises NotToBeHad with its complaint."""
        done = self.inside(lambda: subprocess.run(["ip", *words.split()], capture_output=True, text=True))
        if done.returncode != 0:
            raise NotToBeHad(f"ip {words}: {done.stderr.strip()}")

    def close(self) -> None:
        os.close(self.fd)


class Network:
    """A client's host and a server's, with a router in between.

    Raises NotToBeHad: without `ip`, without leave to make namespaces, without veth in the kernel.
    """

    def __init__(self) -> None:
        if shutil.which("ip") is None:
            raise NotToBeHad("no ip: apt-get install iproute2")
        self._made: list[Namespace] = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        try:
            self.server, self.router, self.client = (self._namespace() for _ in range(3))
        except OSError as exc:
            raise NotToBeHad(f"no network namespace: {exc}") from None
        for end, gate, address, host in (
            ("s", SERVER_GATE, SERVER, self.server),
            ("c", CLIENT_GATE, CLIENT, self.client),
        ):
            # By the path of its descriptor: a namespace without a name.
            there = f"/proc/{os.getpid()}/fd/{host.fd}"
            self.router.ip(f"link add r{end} type veth peer name {end} netns {there}")
            self.router.ip(f"addr add {gate}/24 dev r{end}")
            self.router.ip(f"link set r{end} up")
            host.ip("link set lo up")
            host.ip(f"addr add {address}/24 dev {end}")
            host.ip(f"link set {end} up")
            host.ip(f"route add default via {gate}")
        self.restore()

    def _namespace(self) -> Namespace:
        self._made.append(Namespace())
        return self._made[-1]

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _forward(self, yes: bool) -> None:
        def write() -> None:
            # Of the thread that looks: /proc/sys/net is per namespace.
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1" if yes else "0")

        self.router.inside(write)

    def cut(self) -> None:
        """From now on packets vanish in the router; nobody is told."""
        self._forward(False)

    def restore(self) -> None:
        self._forward(True)

    def listener(self) -> socket.socket:
        """A listening socket on the server's host."""

        def make() -> socket.socket:
            return socket.create_server((SERVER, 0), backlog=4096)

        return self.server.inside(make)

    def close(self) -> None:
        """Let go of the namespaces; the kernel takes them down when their last socket has gone."""
        for namespace in self._made:
            namespace.close()
        self._made.clear()
