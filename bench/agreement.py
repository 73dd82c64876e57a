"""Our client and our floor beside others of their kind: do they measure the same?

    python bench/agreement.py DIR [--rounds 7] [--work NAME ...]

DIR holds a load client of other authorship, wsbench.c, and an echo server in plain C, cepoll.c. Each client measures
each of the floors and ours, interleaved, contaminated samples dropped. For each server: what ours says in terms of what
the other client says, round by round, with the interval that holds the median with 95 % certainty (see compare.py). And
how near our servers come to the other floor, by the other client alone.
"""

from __future__ import annotations

import argparse
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import compare
import rig

OUT = rig.ROOT / "build" / "bench" / "agreement"
START_S = 10.0
OURS = (rig.OURS_INLINE, rig.OURS_GO)
# What is measured: options of wsload, and the same for the other client.
WORK: dict[str, tuple[dict[str, Any], list[str]]] = {
    "100 x 1": ({"connections": 100}, ["-m", "echo", "-c", "100"]),
    "1,000 x 1": ({"connections": 1000}, ["-m", "echo", "-c", "1000"]),
    "10,000 x 1": ({"connections": 10000}, ["-m", "echo", "-c", "10000"]),
    "100 x 16": ({"connections": 100, "outstanding": 16}, ["-m", "echo", "-c", "100", "-P", "16"]),
    "100 x 1, 16 KiB": ({"connections": 100, "size": 16384}, ["-m", "echo", "-c", "100", "-s", "16384"]),
    "10 x 1, 1 MiB": ({"connections": 10, "size": 1 << 20}, ["-m", "echo", "-c", "10", "-s", str(1 << 20)]),
    "handshakes": ({"connections": 64, "mode": "handshakes"}, ["-m", "hs", "-c", "64"]),
}
THEIR_FLOOR = "the other floor"
RATE, CPU = ("messages_per_s", "handshakes_per_s"), ("server_us_per_message", "server_us_per_handshake")


def compiled(source: Path) -> Path:
    target = OUT / source.stem
    OUT.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O3", "-w", "-o", target, source], check=True)
    return target


@contextmanager
def other_floor(program: Path, core: int) -> Iterator[tuple[int, int]]:
    """Run the other floor, which takes its port and tells nothing."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    peer = rig.Peer(program.name, [str(program), str(port)], core, [])
    try:
        end = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > end or peer.process.poll() is not None:
                    raise SystemExit(f"{program.name} does not listen") from None
                time.sleep(0.01)
        yield peer.pid, port
    finally:
        peer.end()


def other_client(program: Path) -> Callable[..., dict[str, float]]:
    """Return what takes a sample as rig.load does, by the other client."""

    def take(core: int, pid: int, port: int, flags: list[str]) -> dict[str, float]:
        command = [str(program), "-p", str(port), "-S", str(pid), "-d", "1.5", "-w", "0.3", *flags]
        with rig.pinned(core):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
        said = dict(re.findall(r"(\S+)=([-0-9.]+)", done.stdout))
        if done.returncode != 0 or float(said["err"]) or float(said.get("bad", 0)):
            raise rig.Failed(f"{program.name} {' '.join(flags)}: {done.stdout.strip()}")
        return {
            "rate": float(said.get("msgs/s") or said["hs/s"]),
            "cpu": float(said.get("us/msg") or said["us/hs"]),
            "other_cpu": float(said["other"]),
        }

    return take


def our_client(core: int, pid: int, port: int, options: dict[str, Any]) -> dict[str, float]:
    sample = rig.load(core, pid, port, **{"seconds": 1.5, "warmup": 0.3, **options})
    rate = next(sample[key] for key in RATE if key in sample)
    cpu = next(sample[key] for key in CPU if key in sample)
    return {"rate": rate, "cpu": cpu, "other_cpu": sample["other_cpu"]}


def line(work: str, server: str, samples: dict[str, dict[int, dict[str, float]]]) -> list[str]:
    own, other = samples["wsload"], samples["the other"]
    both = sorted(n for n in own if n in other)
    cells = [work, server]
    for key, digits in (("rate", 0), ("cpu", 2)):
        if not both:
            cells += ["-", "-", "no clean samples"]
            continue
        ratios = [own[n][key] / other[n][key] for n in both]
        bounds = compare.interval(ratios)
        for taken in (own, other):
            cells.append(f"{statistics.median(taken[n][key] for n in both):,.{digits}f}")
        cells.append(f"{statistics.median(ratios):.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else ""))
    return [*cells, str(len(both))]


def ratios(work: str, server: str, ours: dict[int, dict[str, float]], floor: dict[int, dict[str, float]]) -> list[str]:
    both = sorted(n for n in ours if n in floor)
    cells = [work, server]
    for key in ("rate", "cpu"):
        cells.append(f"{statistics.median(ours[n][key] / floor[n][key] for n in both):.2f}" if both else "-")
    return [*cells, str(len(both))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    args = parser.parse_args()
    server_core, client_core = rig.cores()
    floor, client = compiled(args.directory / "cepoll.c"), other_client(compiled(args.directory / "wsbench.c"))
    servers: dict[str, Callable[[], Any]] = {
        "our floor": lambda: rig.running(rig.FLOOR, server_core),
        THEIR_FLOOR: lambda: other_floor(floor, server_core),
        **{server.name: lambda server=server: rig.running(server, server_core) for server in OURS},
    }
    rows = []
    beside = []
    dropped = 0
    for work in args.work:
        options, flags = WORK[work]
        samples: dict[str, dict[str, dict[int, dict[str, float]]]] = {
            name: {"wsload": {}, "the other": {}} for name in servers
        }
        for number in range(args.rounds):
            for name, start in servers.items():
                with start() as (pid, port):
                    clients: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
                        ("wsload", our_client, {"options": options}),
                        ("the other", client, {"flags": flags}),
                    ]
                    # Each is as often the first.
                    for who, take, more in clients[:: -1 if number % 2 else 1]:
                        sample, lost = rig.measure(client_core, pid, port, take=take, **more)
                        dropped += lost
                        if sample is not None:
                            samples[name][who][number] = sample
            print(f"{work}: round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        rows += [line(work, name, found) for name, found in samples.items()]
        theirs = {name: found["the other"] for name, found in samples.items()}
        beside += [ratios(work, server.name, theirs[server.name], theirs[THEIR_FLOOR]) for server in OURS]
    header = ["work", "server", "wsload /s", "the other /s", "ratio (95 %)", "us by wsload", "by the other", "ratio"]
    header.append("rounds")
    rig.print_table(header, rows)
    print("\nOurs in terms of the other floor, by the other client:")
    rig.print_table(["work", "server", "throughput", "CPU each", "rounds"], beside)
    print(f"{dropped} contaminated samples dropped")


if __name__ == "__main__":
    main()
