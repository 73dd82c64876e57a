"""A machine in a directory: the files of /proc and /sys that the doctor reads, as a server of 16 GB has them."""

from __future__ import annotations

import shutil
from pathlib import Path

SYSCTLS = {
    "fs.file-max": "9223372036854775807",
    "fs.file-nr": "2112\t0\t9223372036854775807",
    "fs.nr_open": "1048576",
    "fs.epoll.max_user_watches": "3647897",
    "vm.overcommit_memory": "0",
    "vm.max_map_count": "65530",
    "net.core.somaxconn": "4096",
    "net.core.rmem_max": "212992",
    "net.core.wmem_max": "212992",
    "net.core.default_qdisc": "fq_codel",
    "net.ipv4.tcp_mem": "190089\t253454\t380178",
    "net.ipv4.tcp_rmem": "4096\t131072\t6291456",
    "net.ipv4.tcp_wmem": "4096\t16384\t4194304",
    "net.ipv4.tcp_max_syn_backlog": "1024",
    "net.ipv4.tcp_syncookies": "1",
    "net.ipv4.tcp_max_orphans": "65536",
    "net.ipv4.ip_local_port_range": "32768\t60999",
    "net.ipv4.tcp_tw_reuse": "2",
    "net.ipv4.tcp_congestion_control": "cubic",
    "net.ipv4.tcp_available_congestion_control": "reno cubic",
}

CONNTRACK = {
    "net.netfilter.nf_conntrack_max": "262144",
    "net.netfilter.nf_conntrack_count": "311",
    "net.netfilter.nf_conntrack_buckets": "65536",
}

_LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max stack size            8388608              unlimited            bytes     
Max processes             {nproc:<20} {nproc:<20} processes 
Max open files            {soft:<20} {hard:<20} files     
Max locked memory         8388608              8388608              bytes     
Max address space         {space:<20} {space:<20} bytes     
Max realtime timeout      unlimited            unlimited            us        
"""  # noqa: W291 - as the kernel pads it

_MEMINFO = """\
MemTotal:       {total:>8} kB
MemFree:          412344 kB
MemAvailable:   {available:>8} kB
CommitLimit:    {limit:>8} kB
Committed_AS:   {committed:>8} kB
HugePages_Total:       0
"""

UNIFIED = (
    "30 23 0:26 {top} {place} rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
)
V1 = "3{n} 31 0:3{n} {top} {place}/{names} rw,relatime shared:{n} - cgroup cgroup rw,{names}\n"
OTHERS = (
    "22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n"
    "29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
)


class Machine:
    """Files below `root`, to be changed one by one. Groups are of version 2 to begin with."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in SYSCTLS.items():
            self.sysctl(name, text)
        self.limits()
        self.memory()
        self.unified("/user.slice/user-1000.slice")

    def write(self, path: str, text: str) -> Path:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def sysctl(self, name: str, text: str | None) -> Path:
        """Set one; None: there is none."""
        path = self.root / "proc/sys" / name.replace(".", "/")
        if text is None:
            path.unlink()
            return path
        return self.write(f"/proc/sys/{name.replace('.', '/')}", f"{text}\n")

    def conntrack(self, **changed: str) -> None:
        for name, text in CONNTRACK.items():
            self.sysctl(name, changed.get(name.rpartition("_")[2], text))

    def limits(
        self,
        who: str = "self",
        *,
        soft: int | str = 1024,
        hard: int | str = 1048576,
        nproc: int | str = 63304,
        space: int | str = "unlimited",
        capabilities: int = 0,
        network: str = "net:[4026531840]",
    ) -> None:
        text = _LIMITS.format(soft=soft, hard=hard, nproc=nproc, space=space)
        self.write(f"/proc/{who}/limits", text)
        self.write(
            f"/proc/{who}/status",
            f"Name:\tpython3\nCapPrm:\t0000000000000000\nCapEff:\t{capabilities:016x}\n",
        )
        place = self.root / f"proc/{who}/ns/net"
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(network)
        self.write(f"/proc/{who}/cgroup", "0::/\n")

    def descriptors(self, n: int, who: str) -> None:
        place = self.root / f"proc/{who}/fd"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for number in range(n):
            (place / str(number)).symlink_to(f"socket:[{number}]")

    def memory(
        self,
        *,
        total: int | str = 16384000,
        available: int | str = 12000000,
        limit: int | str = 8192000,
        committed: int | str = 2000000,
    ) -> None:
        """In KiB."""
        text = _MEMINFO.format(total=total, available=available, limit=limit, committed=committed)
        self.write("/proc/meminfo", text)

    def unified(self, path: str, who: str = "self", *, top: str = "/", place: str = "/sys/fs/cgroup") -> None:
        """Put the process into a group of version 2; top is the group that stands at the mount."""
        self.write("/proc/self/mountinfo", OTHERS + UNIFIED.format(top=top, place=place))
        self.write(f"/proc/{who}/cgroup", f"0::{path}\n")
        inner = path if top == "/" else path.removeprefix(top)
        (self.root / (place + inner).lstrip("/")).mkdir(parents=True, exist_ok=True)

    def group(self, path: str, files: dict[str, str], place: str = "/sys/fs/cgroup") -> None:
        for name, text in files.items():
            self.write(f"{place}{path}/{name}", f"{text}\n")

    def version_1(self, paths: dict[str, str], *, top: str = "/", place: str = "/sys/fs/cgroup") -> None:
        """Groups of version 1: by controllers, as they are mounted, the process's group."""
        mounts = "".join(V1.format(n=n, top=top, place=place, names=names) for n, names in enumerate(paths))
        self.write("/proc/self/mountinfo", OTHERS + mounts)
        lines = (f"{n + 2}:{names}:{path}\n" for n, (names, path) in enumerate(paths.items()))
        self.write("/proc/self/cgroup", "".join(lines) + "1:name=systemd:/init.scope\n")
        for names, path in paths.items():
            inner = path if top == "/" else path.removeprefix(top)
            (self.root / f"{place}/{names}{inner}".lstrip("/")).mkdir(parents=True, exist_ok=True)
