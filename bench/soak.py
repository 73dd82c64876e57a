"""An hour of ordinary life: connections of every kind come, talk and go, and the process stays as it is.

    python bench/soak.py [--minutes 60] [--connections 10000] [--churn 0.1] [--every 40] [--write] [--smoke]

The server, servers/soak.py, serves in every way that the library has, all in one process. The clients, soak_links.py,
check each byte of each reply, the order of all, and that none is missing at a connection's end. A share of them ends
each minute, in all the ways in which connections end, and others take their place. Neither side is pinned or in a
hurry: together they take some tenths of a core.

Every 15 s the server's resident memory, its descriptors and its processor time are noted. At the end all connections
leave, and it is looked at what stays. --write records it: results/soak.json, results/soak.svg and its part of
RESULTS.md. Exits 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import report
import rig
import soak_report
from processes import cpu_seconds, resident_bytes, threads
from soak_links import ECHOING, NUMBERED, OPEN, Links

KINDS = ECHOING + NUMBERED
SERVER = rig.ours("ours, every kind of server in one process", "soak.py")
# Ways to end, and how often each is taken. Who vanishes has messages under way that nobody will miss.
ENDS = {"close": 60, "asked": 10, "fin": 10, "reset": 10, "torn": 10}
OPENED_PER_S = 400
SAMPLED_EVERY_S = 15.0
LEAVING_S = 120.0
# Files of this process that are no connections.
OTHER_DESCRIPTORS = 100


def descriptors(pid: int) -> list[str]:
    """What the process has open, sorted: files by their names, of sockets only that they are some."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        # The listing's own, of this process, is none of the server's; a socket may go while we look.
        try:
            found.append(Path(os.readlink(f"/proc/{pid}/fd/{name}").partition(":")[0]).name)
        except FileNotFoundError:
            continue
    return sorted(found)


def stayed(before: dict[str, int], after: dict[str, int], came: int) -> dict[str, int]:
    """What has grown between two moments at which nobody was there, and how many connections came in between."""
    return {**{name: after[name] - before[name] for name in before}, "came": came}


class Soak:
    """One run: the server, its clients, and what was noted."""

    def __init__(self, server: rig.Peer, ports: dict[str, int], args: argparse.Namespace) -> None:
        self.server, self.args = server, args
        self.rng = random.Random(args.seed)
        self.links = Links(ports, args.every, self.rng)
        self.samples: list[dict[str, float]] = []
        self.began = time.monotonic()
        self.n_told = 0

    def figures(self) -> dict[str, int]:
        return self.server.ask("figures")

    def sample(self) -> None:
        links, figures = self.links, self.figures()
        round_trips = sorted(links.round_trips)
        links.round_trips = []
        p99 = round_trips[len(round_trips) * 99 // 100] if round_trips else 0.0
        self.samples.append(
            {
                "s": round(time.monotonic() - self.began, 2),
                "rss_kib": resident_bytes(self.server.pid) >> 10,
                "descriptors": len(descriptors(self.server.pid)),
                "threads": threads(self.server.pid),
                "connections": figures["connections"],
                "slab_used_bytes": figures["slab_used_bytes"],
                "slab_held_bytes": figures["slab_held_bytes"],
                "slab_resident_bytes": figures["slab_resident_bytes"],
                "server_cpu_s": round(sum(cpu_seconds(self.server.pid)), 2),
                "client_cpu_s": round(sum(cpu_seconds(os.getpid())), 2),
                "opened": links.opened,
                "messages": links.received + links.numbered,
                "wrong": sum(links.wrongs.values()),
                "p99_ms": round(1000 * p99, 2),
            }
        )

    def settle(self, done: Any, seconds: float) -> bool:
        """Let the links live until something is so. Returns whether it is."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                return False
            self.links.turn(time.monotonic() + 0.1)
        return True

    def fill(self, count: int) -> None:
        """Open as many, of all kinds alike, and wait until they are."""
        kinds = self.args.kinds
        per_turn = max(1, OPENED_PER_S // 20)
        for first in range(0, count, per_turn):
            for number in range(first, min(first + per_turn, count)):
                self.links.open(kinds[number % len(kinds)])
            self.links.turn(time.monotonic() + 0.05)
        everybody = self.settle(lambda: all(link.state >= OPEN for link in self.links.alive()), rig.OPEN_TIMEOUT_S)
        if not everybody:
            raise rig.Failed("not all connections were opened")

    def churn(self, until: float) -> None:
        """Have connections come and go, evenly, and take samples."""
        per_s = self.args.connections * self.args.churn / 60
        done, begin = 0, time.monotonic()
        # From here on: what was done to open them all is none of the server's ordinary life.
        sampled = looked = begin - SAMPLED_EVERY_S
        while (now := time.monotonic()) < until:
            while done < int((now - begin) * per_s):
                done += 1
                link = self.links.any_open()
                if link is not None:
                    # By the one that takes its place nothing may be known of the one that goes.
                    self.links.open(link.kind)
                    self.links.end(link, self.rng.choices(list(ENDS), list(ENDS.values()))[0])
            if now - sampled >= SAMPLED_EVERY_S:
                sampled += SAMPLED_EVERY_S
                self.sample()
            if now - looked >= 60.0:
                looked += 60.0
                self.links.look()
                self.tell()
            self.links.turn(min(until, time.monotonic() + max(0.005, 0.5 / per_s)))
        self.sample()

    def empty(self) -> bool:
        """Have all leave, evenly. Returns whether they have."""
        per_turn = max(1, OPENED_PER_S // 20)
        for number, link in enumerate(self.links.alive()):
            if not link.ending:
                self.links.end(link, "close")
            if number % per_turn == per_turn - 1:
                self.links.turn(time.monotonic() + 0.05)
        gone = self.settle(lambda: not self.links.links, LEAVING_S)
        self.links.look()
        return gone and self.settle(lambda: self.figures()["descriptors"] == 0, LEAVING_S)

    def tell(self) -> None:
        for line in self.links.told[self.n_told :]:
            print(line)
        self.n_told = len(self.links.told)
        last = self.samples[-1]
        print(
            f"{(time.monotonic() - self.began) / 60:6.1f} min: {last['connections']:,} connections,"
            f" {last['rss_kib']:,} KiB, {last['descriptors']:,} descriptors, {last['messages']:,} messages,"
            f" {last['wrong']:,} wrong, p99 {last['p99_ms']} ms; CPU {last['server_cpu_s']:.0f} s and"
            f" {last['client_cpu_s']:.0f} s",
            flush=True,
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run it. Returns what is recorded: see soak_report."""
    facts = report.facts([SERVER], 1, 60 * args.minutes, {})
    print("\n".join(facts.lines()), flush=True)
    command = [*SERVER.command(), str(args.every)]
    server = rig.Peer(SERVER.name, command, None, SERVER.path())
    try:
        ports = json.loads(server.hear(rig.START_TIMEOUT_S))
        soak = Soak(server, ports, args)
        # Once everything: modules that are imported late, pools and executors that begin their threads.
        soak.fill(len(KINDS) * 4)
        soak.links.turn(time.monotonic() + min(2.0, args.every))
        soak.empty()
        before, before_kib = descriptors(server.pid), resident_bytes(server.pid) >> 10
        threads_before = threads(server.pid)
        at_rest = server.ask("at rest")
        warmed = soak.links.opened
        soak.began = time.monotonic()
        soak.fill(args.connections)
        print(f"{args.connections:,} are open after {time.monotonic() - soak.began:.1f} s", flush=True)
        soak.churn(time.monotonic() + 60 * args.minutes)
        is_empty = soak.empty()
        # Arenas that nobody needs go back after a second.
        soak.links.turn(time.monotonic() + 3.0)
        after = descriptors(server.pid)
        return {
            "facts": dataclasses.asdict(facts),
            "minutes": args.minutes,
            "connections": args.connections,
            "churn_per_minute": args.churn,
            "seed": args.seed,
            "samples": soak.samples,
            "opened": soak.links.opened,
            "sent": soak.links.sent,
            "received": soak.links.received,
            "numbered": soak.links.numbered,
            "pings": soak.links.pings,
            "ends": dict(soak.links.ends),
            "wrong": dict(soak.links.wrongs),
            "told": soak.links.told,
            "is_empty": is_empty,
            "descriptors_before": before,
            "descriptors_after": after,
            "threads_before": threads_before,
            "threads_after": threads(server.pid),
            "rss_before_kib": before_kib,
            "rss_after_kib": resident_bytes(server.pid) >> 10,
            "left": soak.figures(),
            "stayed": stayed(at_rest, server.ask("at rest"), soak.links.opened - warmed),
        }
    finally:
        server.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--churn", type=float, default=0.1, help="share that is replaced in a minute")
    parser.add_argument("--every", type=float, default=40.0, help="seconds between two messages of a connection")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="record it in bench/, and not in build/bench/soak")
    parser.add_argument("--smoke", action="store_true", help="300 connections, all replaced, for some seconds")
    args = parser.parse_args()
    if args.smoke and args.write:
        parser.error("--smoke says whether it runs; its figures are nothing to --write")
    if args.smoke:
        args.minutes, args.connections, args.churn, args.every = 0.1, 300, 10.0, 0.5
    needed = args.connections + OTHER_DESCRIPTORS
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(f"{needed} descriptors are needed, and {hard} allowed: --connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soak = run(args)
    print()
    print(soak_report.render(soak))
    write(soak, rig.BENCH if args.write else rig.ROOT / "build" / "bench" / "soak")
    # None is of what takes longer to be seen.
    if any(verdict.met is False for verdict in soak_report.verdicts(soak)):
        sys.exit(1)


def write(soak: dict[str, Any], out: Path) -> None:
    """Record it, and plot it."""
    import plots

    report.record("soak", soak, out)
    plots.draw_soak(soak, out / "results")


if __name__ == "__main__":
    main()
