"""Growth: what a message costs among more and more connections, and what idle ones cost those that work.

    python bench/growth.py [--rounds 3] [--smoke]

connections: one message under way on each of N connections; CPU of the server per message.
silent: one message under way on each of 100 connections, and N more are open on which nothing happens: what a turn of
    the loop costs for having them.
ticks: N idle connections that are pinged, always so many a second in all: what the timers cost for having more of them.

Servers are interleaved and contaminated samples dropped as run.py does it. Writes bench/results/growth.json and a
plot; the tables stand in bench/RESULTS.md. One table of descriptors holds some 18,000 connections where RLIMIT_NOFILE
is 20,000; whoever has more is measured further. With several tables ours goes on to 100,000 anywhere (many), the client
in several processes; nobody else here has that, the floor included.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import growth_report
import orphans
import report
import rig

SIZES = [10, 100, 1_000, 10_000, 18_000, 100_000]
MANY = [10_000, 100_000]
SILENT = [0, 1_000, 10_000, 17_900, 100_000]
TICKING = [2_000, 6_000, 18_000]
ACTIVE = 100
PINGS_PER_S = 4_000.0
# Descriptors that both ends need beside those of the connections.
SPARE_FDS = 200
SERVERS = [rig.FLOOR, rig.OURS_INLINE, rig.OURS_POOL, rig.PICOWS, rig.SOCKETIFY]
LOOPS = 6
OURS_MANY = rig.ours(f"ours, {LOOPS} loops with a table each", "ours_many.py", str(LOOPS))
# Of one client: what a table of 20,000 descriptors holds.
PER_CLIENT = 16_700
# Enough for the slowest of the clients to have opened its connections while the first of them warms up.
OPENED_PER_S = 7_000.0
MANY_SECONDS = 4.0
ADDRESSES = 100
BESIDE_SILENT = [rig.FLOOR, rig.OURS_INLINE, rig.OURS_POOL]


def held(sizes: list[int], beside: int = 0) -> list[int]:
    """Those numbers of connections that one table of descriptors can hold."""
    fds = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return [n for n in sizes if fds == resource.RLIM_INFINITY or n + beside + SPARE_FDS <= fds]


def sampled(server: rig.Server, options: dict[str, Any], smoke: bool) -> tuple[float | None, int]:
    """CPU of the server per message in us, None without a clean sample; and how many samples were dropped."""
    server_core, client_core = rig.cores()
    with rig.running(server, server_core) as (pid, port):
        if smoke:
            return rig.load(client_core, pid, port, **options)["server_us_per_message"], 0
        sample, dropped = rig.measure(client_core, pid, port, **options)
    return (None if sample is None else sample["server_us_per_message"]), dropped


def curves(
    part: str, servers: list[rig.Server], points: list[int], rounds: int, times: dict[str, float], smoke: bool
) -> dict[str, Any]:
    """Server -> point -> round -> us per message."""
    taken: dict[str, dict[str, dict[str, float]]] = {s.name: {str(n): {} for n in points} for s in servers}
    dropped = 0
    for point in points:
        options = {"mode": "echo", **times}
        options.update({"connections": point} if part == "connections" else {"connections": ACTIVE, "silent": point})
        for number, server in rig.turns(servers, rounds):
            micros, lost = sampled(server, options, smoke)
            dropped += lost
            if micros is not None:
                taken[server.name][str(point)][str(number)] = micros
        print(f"{part}: {point:,}", file=sys.stderr, flush=True)
    return {"curves": taken, "dropped": dropped}


def many_sampled(connections: int) -> float | None:
    """CPU per message in us of the server with several tables, None if somebody else was at work.

    The clients measure at about the same time; each tells the rate of its own messages, and the CPU of the server.
    """
    server_core, client_core = rig.cores()
    count = -(-connections // PER_CLIENT)
    with rig.serving(OURS_MANY, server_core) as (server, port):
        command = [str(rig.native_tool("wsload")), "--port", str(port), "--server-pid", str(server.pid)]
        command += ["--connections", str(connections // count), "--addresses", str(ADDRESSES)]
        command += ["--seconds", str(MANY_SECONDS), "--warmup", f"{1 + connections / OPENED_PER_S:.1f}"]
        with rig.pinned(client_core):
            clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        said = [client.communicate()[0] for client in clients]
        if any(client.returncode for client in clients):
            raise rig.Failed(f"{count} times wsload {' '.join(command[1:])}: {' '.join(said)}")
    samples = [json.loads(text) for text in said]
    # What each of them took for somebody else's work is the other clients', in the main.
    others = sum(sample["client_cpu"] for sample in samples) * (count - 1) / count
    if statistics.mean(sample["other_cpu"] for sample in samples) - others > rig.MAX_OTHER_CPU:
        return None
    rate = sum(float(sample["messages_per_s"]) for sample in samples)
    return 1e6 * statistics.mean(float(sample["server_cpu"]) for sample in samples) / rate


def many(points: list[int], rounds: int) -> dict[str, Any]:
    """Server -> connections -> round -> us per message, as curves() has it."""
    taken: dict[str, dict[str, float]] = {str(n): {} for n in points}
    dropped = 0
    for number in range(rounds):
        for point in points:
            for _ in range(rig.TRIES):
                micros = many_sampled(point)
                if micros is not None:
                    taken[str(point)][str(number)] = micros
                    break
                dropped += 1
            print(f"many: {point:,}, round {number + 1}", file=sys.stderr, flush=True)
    return {"curves": {OURS_MANY.name: taken}, "dropped": dropped}


def ticks(points: list[int], rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Connections -> round -> user and system time of a ping in us, and pings/s."""
    taken: dict[str, dict[str, list[float]]] = {str(n): {} for n in points}
    for number in range(rounds):
        for point in points:
            user, system, rate = orphans.measure(point / PINGS_PER_S, point, seconds)
            taken[str(point)][str(number)] = [user * 1e4 / rate, system * 1e4 / rate, rate]
            print(f"ticks: {point:,}, round {number + 1}", file=sys.stderr, flush=True)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of a sample")
    parser.add_argument("--smoke", action="store_true", help="one moment of each part: does it run at all")
    args = parser.parse_args()
    rounds, seconds = (1, 0.1) if args.smoke else (args.rounds, args.seconds)
    times = {"seconds": seconds, "warmup": min(0.3, seconds)}
    sizes, silent, ticking = held(SIZES), held(SILENT, ACTIVE), held(TICKING)
    servers, beside = rig.present(SERVERS), rig.present(BESIDE_SILENT)
    if args.smoke:
        sizes, silent, ticking, servers = [10, 100], [0, 200], [400], beside
    facts = report.facts(servers, rounds, seconds, {})
    print("\n".join(facts.lines()))
    each = seconds + times["warmup"] + 1.8
    minutes = rounds * (each * (len(servers) * len(sizes) + len(beside) * len(silent)) + 26 * len(ticking)) / 60
    minutes += 0 if args.smoke else rounds * sum(10 + 2 * n / OPENED_PER_S for n in MANY) / 60
    print(f"about {minutes:.0f} minutes", flush=True)
    begun = time.monotonic()
    growth = {
        "facts": dataclasses.asdict(facts),
        "connections": curves("connections", servers, sizes, rounds, times, args.smoke),
        "silent": curves("silent", beside, silent, rounds, times, args.smoke),
        "many": many(MANY if not args.smoke and rig.present([OURS_MANY]) else [], rounds),
        "ticks": ticks(ticking, rounds, 1.0 if args.smoke else 10.0),
    }
    print(f"it took {(time.monotonic() - begun) / 60:.1f} minutes\n")
    print(growth_report.render(growth))
    out = rig.ROOT / "build" / "bench" / "smoke" if args.smoke else rig.BENCH
    write(growth, out)


def write(growth: dict[str, Any], out: Path) -> None:
    """Record it, and plot it."""
    import plots

    report.record("growth", growth, out)
    plots.draw_growth(growth, out / "results")


if __name__ == "__main__":
    main()
