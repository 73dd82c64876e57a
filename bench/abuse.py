"""Honest clients beside those that mean no good: what the honest ones notice.

    python bench/abuse.py [slowloris stopped descriptors storm] [--rounds 3] [--write] [--smoke]

slowloris: 10,000 clients send their requests byte by byte and never end. Meanwhile others come, a hundred a second, and
    talk. Then the handshake's deadline is over for the slow ones.
stopped: a message goes to 1,000 connections, 20 times a second. None of them, 1 %, 10 % have stopped reading.
descriptors: the server may have no more of them, for 10 s, while clients keep coming; others talk.
storm: thousands connect at once, again and again, more than the backlog holds, or reset before they are accepted;
    others talk, and come.

The server has a core, all clients together have the other one: where attackers keep it busy, that is part of what is
measured of the honest. Rounds are interleaved; a figure is the median of them, with the lowest and the highest. --write
records it: results/abuse.json and its part of RESULTS.md. Exits 1 if something was lost; a figure that misses its
target is no failure, for it may be the machine's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import abuse_report
import report
import rig
from processes import cpu_seconds, status_bytes

# Of everything that is awaited here, beyond what it takes.
PATIENCE_S = 60.0
HANDSHAKE_TIMEOUT_S = 10.0
EMPTIED_S = 10.0
LONGER_S = (3.0, 10.0, 30.0)


def server(kind: str, echoes: str, nofile: int | None = None, **options: Any) -> rig.Server:
    args = [kind, echoes, json.dumps(options)] + ([] if nofile is None else [str(nofile)])
    return rig.ours(f"ours, {kind}", "ours_abused.py", *args)


def emptied(peer: rig.Peer) -> int:
    """Wait until the server has no connection of any kind, for some seconds at most. Returns how many it has."""
    end = time.monotonic() + EMPTIED_S
    while (left := peer.ask("counters")["descriptors"]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


@contextmanager
def attacking(core: int | None, mode: str, port: int, count: int, *options: str) -> Iterator[rig.Peer]:
    """Run attackers.py; yields it at once, and it is killed at the end."""
    # With less of a say than the honest, who share the core: what these notice is to be the server's doing.
    command = ["nice", "-n", "10", sys.executable, str(rig.BENCH / "attackers.py"), mode, str(port), str(count)]
    command += options
    peer = rig.Peer(f"attackers.py {mode}", command, core, [])
    try:
        yield peer
    finally:
        peer.end()


# --- slowloris ---


@dataclass(frozen=True)
class Sizes:
    """How much of everything; small ones are what the tests and --smoke take."""

    pinned: bool = True
    slow: int = 10_000
    slow_for_s: float = 2.0
    readers: int = 1000
    stopped: tuple[float, ...] = (0.0, 0.01, 0.1)
    publications_per_s: float = 20.0
    size: int = 1000
    # Longer than what is measured takes, so that those who stopped are there all the while.
    send_timeout: float = 10.0
    seconds: float = 6.0
    nofile: int = 1000
    starved_s: float = 10.0
    wave: int = 5000
    backlog: int = 128
    handshake_timeout: float = HANDSHAKE_TIMEOUT_S
    # Of honest pings and newcomers; who is later than the deadline is lost.
    period: float = 1.0
    deadline: float = 2.0

    def cores(self) -> tuple[Any, Any]:
        """Return the server's core and that of all clients; None: any."""
        return rig.cores() if self.pinned else (None, None)


# Says whether somebody is lost, on any machine that has other things to do; its figures mean nothing.
SMALL = Sizes(
    pinned=False, slow=1000, slow_for_s=1.0, readers=100, stopped=(0.0, 0.1), publications_per_s=50.0, size=8000,
    seconds=1.5, send_timeout=2.5, nofile=200, starved_s=1.5, wave=500, handshake_timeout=4.0, period=1.5,
    deadline=4.0,
)  # fmt: skip


def slowloris(sizes: Sizes, kind: str, slow: int) -> dict[str, Any]:
    """Honest clients beside so many slow ones, until all of these are gone."""
    server_core, client_core = sizes.cores()
    seconds = sizes.handshake_timeout + sizes.slow_for_s
    newcomers = int(100 * seconds)
    limit = str(seconds + sizes.handshake_timeout)
    with (
        rig.serving(server(kind, "back", handshake_timeout=sizes.handshake_timeout), server_core) as (peer, port),
        attacking(client_core, "slowloris", port, slow, "--seconds", limit) as attackers,
    ):
        attackers.hear(PATIENCE_S)
        honest = {"connections": 100, "newcomers": newcomers, "seconds": seconds, "warmup": 0.2, "server_pid": peer.pid}
        honest |= {"period": sizes.period, "deadline": sizes.deadline}
        with rig.probing(client_core, port, "pings", **honest) as client:
            client.hear(PATIENCE_S)
            if slow:
                attackers.say("now")
                if (said := attackers.hear(PATIENCE_S)) != "ready":
                    raise rig.Failed(f"attackers.py said {said!r}")
            held = peer.ask("counters")["descriptors"]
            cpu = sum(cpu_seconds(peer.pid))
            client.say("now")
            seen = json.loads(client.hear(seconds + PATIENCE_S))
            cpu = (sum(cpu_seconds(peer.pid)) - cpu) / seconds
            ended = json.loads(attackers.hear(PATIENCE_S)) if slow else {"left": 0, "longest_s": 0.0, "refused": 0}
        remaining = emptied(peer)
    return {
        "upgrade_p99_ms": seen["upgrade"]["p99_us"] / 1000,
        "upgrade_max_ms": seen["upgrade"]["max_us"] / 1000,
        "pong_p99_ms": seen["pong"]["p99_us"] / 1000,
        "honest_lost": seen["lost"] + seen["wrong"] + newcomers - seen["newcomers_in_time"],
        "held": held - 100,
        "left": ended["left"] + remaining,
        "refused": ended["refused"],
        "longest_s": ended["longest_s"],
        "server_cpu": cpu,
        "other_cpu": seen["other_cpu"],
    }


# --- readers that stopped ---


def broadcasting(core: int | None, port: int, connections: int, sizes: Sizes) -> dict[str, Any]:
    """Have one of the connections publish; returns what `unlimitedws bench` measured of all deliveries."""
    seconds = sizes.seconds
    command = [sys.executable, "-m", "unlimitedws", "bench", f"ws://127.0.0.1:{port}/", "--mode", "broadcast", "-c"]
    command += [str(connections), "-r", str(sizes.publications_per_s), "-d", str(seconds), "-w", "1", "-s"]
    command += [str(sizes.size), "--timeout", "60", "--json", "-q"]
    with rig.pinned(core):
        done = subprocess.run(
            command,
            env=rig.environment([str(rig.ROOT / "src")] if rig.built_in_place() else []),
            stdout=subprocess.PIPE,
            text=True,
            timeout=seconds + PATIENCE_S,
        )
    if done.returncode != 0:
        raise rig.Failed(f"unlimitedws bench: exit code {done.returncode}: {done.stdout.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def stopped(sizes: Sizes, kind: str, share: float, overflow: str = "drop-oldest") -> dict[str, Any]:
    """Broadcast to readers of whom a share does not read, and whose queues are full.

    overflow: the server's policy; by default that with which they stay for as long as what is measured lasts.
    """
    server_core, client_core = sizes.cores()
    asleep = round(sizes.readers * share)
    options = {"overflow": overflow, "max_buffered_bytes": 128 << 10, "send_timeout": sizes.send_timeout}
    with (
        rig.serving(server(kind, "all", **options), server_core) as (peer, port),
        attacking(client_core, "stopped", port, asleep) as attackers,
    ):
        if (said := attackers.hear(PATIENCE_S)) != "ready":
            raise rig.Failed(f"attackers.py said {said!r}")
        waiting = peer.ask("counters")["buffered_bytes"]
        before = resident_mib(peer.pid)
        seen = broadcasting(client_core, port, sizes.readers - asleep, sizes)
        peak = peak_mib(peer.pid)
        still_there = emptied(peer)
        after = peer.ask("counters")
    ended = {key.removeprefix("closed_by_"): n for key, n in after.items() if key.startswith("closed_by_") and n}
    # The honest, at their end.
    ended.pop("peer", None)
    return {
        "asleep": asleep,
        "waiting_mib": waiting / (1 << 20),
        "p50_ms": 1000 * seen["latency_seconds"]["p50"],
        "p99_ms": 1000 * seen["latency_seconds"]["p99"],
        "deliveries": seen["messages"],
        "errors": sum(seen["errors"].values()),
        "still_there": still_there,
        "dropped": after["dropped_oldest"],
        "overflowed": after["overflow_closed"],
        "ended": ended,
        "grown_mib": peak - before,
    }


def resident_mib(pid: int) -> float:
    return status_bytes(pid, "VmRSS")[0] / (1 << 20)


def peak_mib(pid: int) -> float:
    return status_bytes(pid, "VmHWM")[0] / (1 << 20)


# --- no descriptors ---


def descriptors(sizes: Sizes, kind: str) -> dict[str, Any]:
    """Take all descriptors that the server may have, keep coming, and let go."""
    # Those who talk have to do so until it is over, and nobody knows how long the others take to come.
    for longer_s in LONGER_S:
        seen = _descriptors(sizes, kind, longer_s)
        if seen is not None:
            return seen
    raise rig.Failed("the descriptors were not taken for as long as others talked")


def _descriptors(sizes: Sizes, kind: str, longer_s: float) -> dict[str, Any] | None:
    """None: those who talk were through before it was over."""
    server_core, client_core = sizes.cores()
    talkers, rate = 50, 500
    starving = server(kind, "back", sizes.nofile, raise_nofile_limit=False)
    with rig.serving(starving, server_core) as (peer, port):
        talk = {"connections": talkers, "rate": rate, "seconds": sizes.starved_s + longer_s, "warmup": 0.2}
        with rig.probing(client_core, port, "echo", server_pid=peer.pid, **talk) as client:
            with attacking(client_core, "crowd", port, sizes.nofile, "--pause", "0.01") as attackers:
                inside = int(attackers.hear(PATIENCE_S))
                before, cpu = peer.ask("counters"), sum(cpu_seconds(peer.pid))
                time.sleep(sizes.starved_s)
                cpu = (sum(cpu_seconds(peer.pid)) - cpu) / sizes.starved_s
                after = peer.ask("counters")
                if client.process.poll() is not None or after["connections"] < before["connections"]:
                    return None
                attackers.say("let go")
                said = json.loads(attackers.hear(PATIENCE_S))
            seen = json.loads(client.hear(PATIENCE_S))
    return {
        "inside": inside,
        "tried": said["tried"],
        "let_in": after["upgraded"] - before["upgraded"],
        "turned_away": after["turned_away"] - before["turned_away"],
        "wakeups": after["wakeups"] - before["wakeups"],
        "server_cpu": cpu,
        "again_after_ms": 1000 * said["again_after_s"],
        "talk_p99_ms": seen["round_trip"]["p99_us"] / 1000,
        "talk_max_ms": seen["round_trip"]["max_us"] / 1000,
        "talk": seen["round_trip"]["count"],
        "talk_wrong": seen["wrong"] + talkers - seen["open"],
    }


# --- storms ---


def storm(sizes: Sizes, kind: str, what: str) -> dict[str, Any]:
    """Thousands connect at once, again and again. what: none, plain, overrun (of a short backlog), reset."""
    server_core, client_core = sizes.cores()
    talkers, newcomers = 50, int(20 * sizes.seconds)
    options = {"backlog": sizes.backlog} if what == "overrun" else {}
    with rig.serving(server(kind, "back", **options), server_core) as (peer, port):
        talk = {"connections": talkers, "rate": 500, "seconds": sizes.seconds, "warmup": 0.5}
        # A SYN that finds no room is sent again after 1 s, 3 s and 7 s: that is TCP's, and nobody is kept out by it.
        period = max(sizes.period, 4.0) if what == "overrun" else sizes.period
        come = {"connections": 1, "newcomers": newcomers, "seconds": sizes.seconds}
        come |= {"period": period, "deadline": 2.9 * period}
        wave = 0 if what == "none" else sizes.wave
        how = ["--reset"] if what == "reset" else []
        with attacking(client_core, "storm", port, wave, "--seconds", str(sizes.seconds), *how) as attackers:
            # Before the others are there, as in slowloris().
            if (said := attackers.hear(PATIENCE_S)) != "ready":
                raise rig.Failed(f"attackers.py said {said!r}")
            with rig.probing(client_core, port, "pings", warmup=0.1, **come) as coming:
                coming.hear(PATIENCE_S)
                with rig.probing(client_core, port, "echo", server_pid=peer.pid, **talk) as talking:
                    before, begun = peer.ask("counters"), time.monotonic()
                    coming.say("now")
                    if what != "none":
                        attackers.say("now")
                    talked = json.loads(talking.hear(sizes.seconds + PATIENCE_S))
                    came = json.loads(coming.hear(sizes.seconds + PATIENCE_S))
                    waves = {} if what == "none" else json.loads(attackers.hear(sizes.seconds + PATIENCE_S))
                    took = time.monotonic() - begun
                    after = peer.ask("counters")
        left = emptied(peer)
    return {
        "accepts_per_s": (after["accepted"] - before["accepted"]) / took,
        "connects": waves.get("connects", 0),
        "failed": waves.get("failed", 0),
        "wave_s": waves.get("longest_s", 0.0),
        "talk_p99_ms": talked["round_trip"]["p99_us"] / 1000,
        "talk_max_ms": talked["round_trip"]["max_us"] / 1000,
        "talk_wrong": talked["wrong"] + talkers - talked["open"],
        "came_p99_ms": came["upgrade"]["p99_us"] / 1000,
        "came_max_ms": came["upgrade"]["max_us"] / 1000,
        "left": left,
        "kept_out": newcomers - came["newcomers_in_time"],
    }


# --- all of it ---


def cases(part: str, sizes: Sizes) -> dict[str, Any]:
    """By name: what takes one sample."""
    if part == "slowloris":
        return {
            f"{kind}, {slow:,} slow": lambda kind=kind, slow=slow: slowloris(sizes, kind, slow)
            # No callback has a part in it: with a pool it is the same.
            for kind in ("inline", "aio")
            for slow in (0, sizes.slow)
        }
    if part == "stopped":
        return {
            f"{kind}, {share:.0%} stopped": lambda kind=kind, share=share: stopped(sizes, kind, share)
            for kind in ("inline", "pool", "aio")
            for share in sizes.stopped
        }
    if part == "descriptors":
        return {kind: lambda kind=kind: descriptors(sizes, kind) for kind in ("inline", "pool", "aio")}
    return {
        f"{kind}, {what}": lambda kind=kind, what=what: storm(sizes, kind, what)
        for kind in ("inline", "pool")
        for what in ("none", "plain", "overrun", "reset")
    }


def measure(
    part: str, sizes: Sizes, rounds: int, only: list[str], keep: Callable[[dict[str, list[dict[str, Any]]]], None]
) -> dict[str, list[dict[str, Any]]]:
    """Case -> samples, round by round; another case begins each round. keep: given what there is after each."""
    wanted = {
        name: take for name, take in cases(part, sizes).items() if not only or any(text in name for text in only)
    }
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    names = list(wanted)
    if not names:
        return taken
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(wanted[name]())
            print(f"{part}: {name}, round {number + 1}", file=sys.stderr, flush=True)
        keep(taken)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(abuse_report.PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--more", action="store_true", help="add the rounds to those that are there")
    parser.add_argument("--only", nargs="+", default=[], help="only cases whose names contain one of these")
    parser.add_argument("--write", action="store_true", help="record it in bench/, and not in build/bench/abuse")
    parser.add_argument("--smoke", action="store_true", help="one small round: does it run, and is nobody lost")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(abuse_report.PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}: there are {', '.join(abuse_report.PARTS)}")
    if args.smoke and args.write:
        parser.error("--smoke says whether it runs; its figures are nothing to --write")
    parts = args.parts or list(abuse_report.PARTS)
    sizes, rounds = (SMALL, 1) if args.smoke else (Sizes(), args.rounds)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = sizes.slow + 2000
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(f"{needed} descriptors are needed, and {hard} allowed")
    facts = report.facts([server("inline", "back")], rounds, sizes.seconds, {})
    print("\n".join(facts.lines()), flush=True)
    out = rig.BENCH if args.write else rig.ROOT / "build" / "bench" / "abuse"
    recorded = abuse_report.recorded(out) or {}
    for part in parts:
        had = recorded.get(part, {}).get("samples", {}) if args.more else {}

        def keep(
            taken: dict[str, list[dict[str, Any]]], part: str = part, had: dict[str, list[dict[str, Any]]] = had
        ) -> None:
            samples = {name: had.get(name, []) + own for name, own in taken.items()}
            about = {"facts": dataclasses.asdict(facts), "sizes": dataclasses.asdict(sizes)}
            recorded[part] = {**about, "samples": samples}
            if not args.only:
                report.record("abuse", recorded, out)

        measure(part, sizes, rounds, args.only, keep)
        print()
        print(abuse_report.render_part(part, recorded[part]))
        print(flush=True)
    lost = [line for part in parts for line in abuse_report.losses(part, recorded[part])]
    if lost:
        raise SystemExit("\n".join(lost))


if __name__ == "__main__":
    main()
