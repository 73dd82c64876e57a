"""The preloaded shim of tests/faults/native/faults.c: built, told what to let fail, asked what it has seen.

Owns the table of what each call of the engine may come to, and of the calls that cannot fail. For failing_calls.py.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).parent / "native" / "faults.c"
ENGINE = ROOT / "src" / "_uws"
LIBRARY = ROOT / "build" / "faults" / "faults.so"

# Of faults.c.
ONE, HALF, NOTHING = -1, -2, -3
_SHORT = {ONE: "one", HALF: "half", NOTHING: "nothing"}


class Fault(NamedTuple):
    """What a call comes to.

    Attributes:
        how: An errno, or one of `ONE`, `HALF`, `NOTHING`.
        harmless: Nobody may notice: no connection ends for it, no message is late for good.
        times: How often in a row; each is a case of its own.
    """

    how: int
    harmless: bool = False
    times: tuple[int, ...] = (1,)

    @property
    def name(self) -> str:
        return _SHORT.get(self.how) or errno.errorcode.get(self.how, "none")


def _passing(*hows: int, times: tuple[int, ...] = (1, 3)) -> tuple[Fault, ...]:
    return tuple(Fault(how, harmless=True, times=times) for how in hows)


def _failing(*hows: int, times: tuple[int, ...] = (1,)) -> tuple[Fault, ...]:
    return tuple(Fault(how, times=times) for how in hows)


_SENT = (
    *_passing(errno.EINTR, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, ONE, HALF),
    *_failing(errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.EACCES),
)
# Of a call that takes memory: it is short once, for a while, and for all of the case.
_NO_MEMORY = _failing(errno.ENOMEM, times=(1, 3, 1000))

# By the names of faults_names in faults.c. What the manual pages name, and what Linux gives that they do not, where it
# can come of a call that is right.
CALLS: dict[str, tuple[Fault, ...]] = {
    "accept4": (
        *_passing(errno.EINTR, errno.EAGAIN, errno.ECONNABORTED, errno.EPROTO),
        *_failing(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
    ),
    "bind": _failing(errno.EADDRINUSE, errno.EACCES),
    "calloc": _NO_MEMORY,
    # The descriptor is gone whatever close() says, and nobody asks it.
    "close": _passing(errno.EINTR, errno.EIO),
    "connect": _failing(errno.ENOMEM, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EAGAIN),
    "cond_wait": _passing(NOTHING),
    "epoll_create1": _failing(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    "epoll_ctl_add": _failing(errno.ENOMEM, errno.ENOSPC, times=(1, 3)),
    "epoll_ctl_mod": _failing(errno.ENOMEM, times=(1, 3)),
    "epoll_wait": _passing(errno.EINTR, NOTHING, ONE),
    "eventfd": _failing(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    "getpeername": _failing(errno.ENOBUFS),
    "getrandom": (*_passing(errno.EINTR), *_failing(errno.ENOSYS)),
    # What a sandbox says that allows it not at all.
    "getrlimit": _failing(errno.EPERM),
    "getsockname": _failing(errno.ENOBUFS),
    "getsockopt": _failing(errno.ENOBUFS, errno.ENOTCONN),
    "ioctl": _failing(errno.ENOMEM),
    "madvise": _passing(errno.EINVAL, errno.ENOMEM, times=(1,)),
    "malloc": _NO_MEMORY,
    "mincore": _passing(errno.ENOMEM, errno.EAGAIN, times=(1,)),
    "mmap": _NO_MEMORY,
    "mremap": _NO_MEMORY,
    # The kernel has to split a mapping, and there are as many as there may be: the slab keeps it, empty.
    "munmap": _passing(errno.ENOMEM, times=(1,)),
    # Somebody else has it, and lets go of it at once.
    "mutex_trylock": _passing(errno.EBUSY),
    "open": _failing(errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ENOMEM),
    "poll": (*_passing(errno.EINTR), *_failing(errno.ENOMEM)),
    "pthread_attr_setstacksize": _passing(errno.EINVAL, times=(1,)),
    "pthread_create": _failing(errno.EAGAIN, errno.EPERM),
    "pthread_getattr_np": _passing(errno.ENOMEM, times=(1,)),
    "read": _passing(errno.EINTR, errno.EAGAIN),
    "realloc": _NO_MEMORY,
    "recv": (
        *_passing(errno.EINTR, errno.EAGAIN, ONE, HALF),
        *_failing(errno.ECONNRESET, errno.ETIMEDOUT, errno.ENOMEM, NOTHING),
    ),
    "send": _SENT,
    "sendmsg": _SENT,
    "setsockopt": _failing(errno.ENOBUFS),
    "shutdown": _failing(errno.ENOTCONN, errno.ENOBUFS),
    "socket": _failing(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
    # close_range() and unshare().
    "syscall": _failing(errno.ENOSYS, errno.EPERM, errno.ENOMEM),
    # An eventfd that takes no more has a reader on the way: so EAGAIN is no failure, and does not come of a low count.
    "write": _passing(errno.EINTR),
    "slab_take": _NO_MEMORY,
    "slab_grow": _NO_MEMORY,
    # One at a time: the interpreter gives up where it cannot make its MemoryError for want of memory.
    "python": _failing(errno.ENOMEM),
}

# What is not left to chance, but for what is harmless:
_NOT_BY_CHANCE = (
    # without random numbers the load generator ends the process (entropy.pyx);
    "getrandom",
    # see above;
    "python",
    # to say that a socket is not connected, and that it is no end of the stream, is to tell two stories.
    "shutdown",
)

_OUR_MISTAKE = "only where its arguments are wrong"

# What modules of the engine import of the C library and of zlib, and why it is not made to fail.
CANNOT_FAIL = {
    "__errno_location": "an address",
    "abort": "does not come back",
    "clock_gettime": f"{_OUR_MISTAKE}: these clocks are always there",
    "deflate": "fails for want of room in its output, which is counted on; its memory was taken by deflateInit2_",
    "deflateEnd": _OUR_MISTAKE,
    "deflateInit2_": "fails as the allocator does that it is given: slab_take, malloc",
    "deflateReset": _OUR_MISTAKE,
    "free": "returns nothing",
    "inet_ntop": _OUR_MISTAKE,
    "inet_pton": f"{_OUR_MISTAKE}, or its text is no address: which is what it is asked",
    "inflate": "fails as its input is: test_deflate.py, and the fuzzers; its window was taken by inflateInit2_",
    "inflateEnd": _OUR_MISTAKE,
    "inflateInit2_": "fails as the allocator does that it is given: slab_take, malloc",
    "inflateReset": _OUR_MISTAKE,
    "inflateResetKeep": _OUR_MISTAKE,
    "malloc_usable_size": "a size",
    "pthread_attr_destroy": _OUR_MISTAKE,
    "pthread_attr_getstack": _OUR_MISTAKE,
    "pthread_attr_init": "takes no memory on Linux (its manual page)",
    "pthread_cond_broadcast": _OUR_MISTAKE,
    "pthread_cond_destroy": _OUR_MISTAKE,
    "pthread_cond_init": "takes no memory on Linux: always 0",
    "pthread_cond_signal": _OUR_MISTAKE,
    "pthread_condattr_destroy": _OUR_MISTAKE,
    "pthread_condattr_init": "takes no memory on Linux: always 0",
    "pthread_condattr_setclock": f"{_OUR_MISTAKE}: this clock is always there",
    "pthread_join": _OUR_MISTAKE,
    "pthread_mutex_destroy": _OUR_MISTAKE,
    "pthread_mutex_init": "takes no memory on Linux: always 0",
    "pthread_mutex_lock": f"{_OUR_MISTAKE}: these are not the kinds that count or check",
    "pthread_mutex_unlock": _OUR_MISTAKE,
    "pthread_self": "a number",
    "pthread_sigmask": _OUR_MISTAKE,
    "sigfillset": _OUR_MISTAKE,
    "sysconf": "the size of a page is always known",
    # zlib-ng has the same functions under names of its own.
    **{
        f"zng_{name}": "as zlib's"
        for name in ("deflate", "deflateEnd", "deflateInit2", "deflateReset", "inflate", "inflateEnd")
    },
    **{f"zng_{name}": "as zlib's" for name in ("inflateInit2", "inflateReset", "inflateResetKeep")},
}

# Import names that are one of CALLS.
SAME = {
    "epoll_ctl": "epoll_ctl_add",
    "getrlimit64": "getrlimit",
    "mmap64": "mmap",
    "open64": "open",
    "pthread_cond_timedwait": "cond_wait",
    "pthread_cond_wait": "cond_wait",
    "pthread_mutex_trylock": "mutex_trylock",
}


def build() -> Path:
    """Compile the shim, where it is not up to date; return it."""
    if LIBRARY.exists() and LIBRARY.stat().st_mtime >= SOURCE.stat().st_mtime:
        return LIBRARY
    LIBRARY.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=LIBRARY.parent) as room:
        made = Path(room) / "faults.so"
        flags = ["-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-fno-builtin", "-fvisibility=hidden"]
        warnings = ["-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE"]
        command = [os.environ.get("CC", "cc"), *flags, *warnings, str(SOURCE), "-o", str(made), "-ldl", "-lpthread"]
        subprocess.run(command, check=True)
        # Whoever builds it at the same time makes the same of it.
        made.rename(LIBRARY)
    return LIBRARY


class Shim:
    """The shim of this process, which was started with it preloaded, before the engine is imported."""

    def __init__(self, engine: Path = ENGINE) -> None:
        if "_uws.slab" in sys.modules:
            raise RuntimeError("the engine has been imported, and its modules call each other already")
        self._lib = ctypes.CDLL(str(LIBRARY))
        self._lib.faults_fired.restype = ctypes.c_int64
        self._lib.faults_mark.restype = None
        self._lib.faults_arm.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        self._lib.faults_chance.argtypes = (ctypes.c_uint64, ctypes.c_uint32)
        self._lib.faults_slab.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._lib.faults_slab.restype = None
        self._lib.faults_python.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._lib.faults_python.restype = None
        names = ctypes.c_char_p(ctypes.addressof(ctypes.c_char.in_dll(self._lib, "faults_names"))).value
        assert names is not None
        self.names = names.decode().split()
        if self.names != list(CALLS):
            raise RuntimeError("faults.c and shim.py do not have the same calls")
        self._number = {name: number for number, name in enumerate(self.names)}
        self._seen = (ctypes.c_int64 * len(self.names))()
        for name, faults in CALLS.items():
            hows = [fault.how for fault in faults if name not in _NOT_BY_CHANCE or fault.harmless]
            if self._lib.faults_may(self._number[name], (ctypes.c_int * len(hows))(*hows), len(hows)) != 0:
                raise RuntimeError(f"too many faults of {name}")
        # Ours, or that of a wheel, which has brought its library.
        sys.path.insert(0, str(engine.parent))
        self._stand_in_for_the_slab(engine)

    def _stand_in_for_the_slab(self, engine: Path) -> None:
        """Have the modules that are imported from now on call the shim where they want the slab."""
        # Without the package, whose own import brings all of its modules.
        package = types.ModuleType("_uws")
        package.__path__ = [str(engine)]
        sys.modules["_uws"] = package
        slab = importlib.import_module("_uws.slab")
        del sys.modules["_uws"]
        if others := [name for name in sys.modules if name.startswith("_uws.") and name != "_uws.slab"]:
            raise RuntimeError(f"imported with the slab: {others}")
        api = ctypes.pythonapi
        api.PyCapsule_GetName.restype = ctypes.c_char_p
        api.PyCapsule_GetName.argtypes = (ctypes.py_object,)
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
        api.PyCapsule_SetPointer.argtypes = (ctypes.py_object, ctypes.c_void_p)
        real = []
        for name in ("slab_take", "slab_grow"):
            capsule = slab.__pyx_capi__[name]
            real.append(api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))
            ours = ctypes.cast(getattr(self._lib, f"faults_{name}"), ctypes.c_void_p)
            api.PyCapsule_SetPointer(capsule, ours)
        self._lib.faults_slab(*real)

    def watch(self, modules: Iterable[str]) -> None:
        """Say whose calls are meant: those of these files."""
        wanted = {os.path.realpath(module) for module in modules}
        pairs = []
        with open("/proc/self/maps", encoding="utf-8") as maps:
            for line in maps:
                span, mode, _offset, _device, _inode, *path = line.split(maxsplit=5)
                if path and "x" in mode and path[0].strip() in wanted:
                    pairs.append(tuple(int(end, 16) for end in span.split("-")))
        if len(pairs) < len(wanted):
            raise RuntimeError(f"{len(wanted)} modules, and code of {len(pairs)}")
        flat = [bound for pair in sorted(pairs) for bound in pair]
        if self._lib.faults_modules((ctypes.c_uint64 * len(flat))(*flat), len(pairs)) != 0:
            raise RuntimeError("too many modules")

    def hook_python(self) -> None:
        """Stand in for the interpreter's allocators, in the threads that call `mark`."""
        api = ctypes.pythonapi
        get = ctypes.cast(api.PyMem_GetAllocator, ctypes.c_void_p)
        put = ctypes.cast(api.PyMem_SetAllocator, ctypes.c_void_p)
        self._lib.faults_python(get, put)

    def mark(self, marked: bool) -> None:
        """Whether what the calling thread asks the interpreter's allocators for counts: it runs callbacks."""
        while True:
            try:
                self._lib.faults_mark(marked)
            except MemoryError:
                # For the call itself, in a thread that is marked: that is no fault of the engine's.
                continue
            return

    def arm(self, call: str, how: int, first: int, times: int) -> None:
        """Let the calls of a kind from the first (0 is the next one) on fail so many times. Up to four of these."""
        if self._lib.faults_arm(self._number[call], how, first, times) != 0:
            raise RuntimeError("four are armed already")

    def leave_to_chance(self, seed: int, per_million: int) -> None:
        """Let any call fail in any way, so many of a million. The seed decides which."""
        self._lib.faults_chance(seed, per_million)

    def on(self) -> None:
        """Count, and let fail what was armed, from now on."""
        self._lib.faults_on()

    def off(self) -> None:
        """Let nothing fail any more."""
        self._lib.faults_off()

    @property
    def fired(self) -> int:
        """How many calls have been made to fail since `on`."""
        return int(self._lib.faults_fired())

    def seen(self) -> dict[str, int]:
        """How many calls of each kind there were since `on`."""
        self._lib.faults_seen(self._seen, len(self.names))
        return {name: count for name, count in zip(self.names, self._seen, strict=True) if count != 0}

    def sites(self) -> dict[tuple[str, int], tuple[str, int]]:
        """Every place that calls have come from since the process began: (module, offset of what follows the call) ->
        (call, how often it was made to fail)."""
        room = 8192
        out = (ctypes.c_uint64 * (4 * room))()
        n = self._lib.faults_sites(out, room)
        bases = _bases()
        found = {}
        for at, call, _seen, failed in (out[4 * i : 4 * i + 4] for i in range(n)):
            for begin, end, offset, path in bases:
                if begin <= at < end:
                    found[Path(path).name, at - begin + offset] = (self.names[call], failed)
        return found


def _bases() -> list[tuple[int, int, int, str]]:
    """(begin, end, offset in the file, path) of all code that is mapped."""
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, mode, offset, _device, _inode, *path = line.split(maxsplit=5)
        if path and "x" in mode:
            begin, end = (int(bound, 16) for bound in span.split("-"))
            found.append((begin, end, int(offset, 16), path[0].strip()))
    return found
