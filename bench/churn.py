"""The soak's coming and going, some hundred times as fast: what stays of a connection when nobody is there any more?

    python bench/churn.py [--rounds 10] [--seconds 20] [--connections 300] [--per-second 4000] [--exact] [--smoke]

The server and the clients are those of bench/soak.py; so are what the clients check, and the ways to end. In each round
connections come and go for some seconds, then all leave. Then it is counted what the interpreter and the C library have
handed out, to the block and to the byte, and what is resident of what. A leak is there in every round again; what the
C library keeps at hand for its threads comes to an end, and so does what lies fragmented. --exact has it keep nothing
at hand (GLIBC_TUNABLES), so that its bytes are as exact as the interpreter's blocks.

Exits 1 if a block of the interpreter has stayed of every hundredth connection, or a message was wrong.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import rig
import soak
import soak_report
from processes import heap_bytes, resident_bytes

NOTHING_AT_HAND = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
HEADER = (
    "connections", "messages", "threads", "blocks", "malloc in use", "RSS", "main heap", "threads' heaps", "engine",
)  # fmt: skip


@dataclass(frozen=True)
class Rest:
    """What there is when nobody is. Sizes in bytes; those from resident on are of pages."""

    came: int
    messages: int
    threads: int
    blocks: int
    malloc_bytes: int
    resident: int
    main_heap: int
    thread_heaps: int
    slab: int

    def row(self, first: Rest) -> list[str]:
        sizes = (self.resident, self.main_heap, self.thread_heaps, self.slab)
        return [
            f"{self.came:,}",
            f"{self.messages:,}",
            str(self.threads),
            f"{self.blocks:,} ({self.blocks - first.blocks:+,})",
            f"{self.malloc_bytes:,}",
            *(f"{size >> 10:,} KiB" for size in sizes),
        ]


def rest_of(soaking: soak.Soak) -> Rest:
    told = soaking.server.ask("at rest")
    pid = soaking.server.pid
    main_heap, thread_heaps = heap_bytes(pid)
    links = soaking.links
    return Rest(
        came=links.opened,
        messages=links.received + links.numbered,
        threads=told["threads"],
        blocks=told["blocks"],
        malloc_bytes=told["malloc_bytes"],
        resident=resident_bytes(pid),
        main_heap=main_heap,
        thread_heaps=thread_heaps,
        slab=soaking.figures()["slab_resident_bytes"],
    )


def stayed_per_connection(rests: list[Rest]) -> float | None:
    """Return how many blocks of the interpreter have stayed of each connection; None: there was no telling.

    The first round has what is made once. A thread that begins has some that are its own, so the last rounds with as
    many threads count: from the first of them to that behind it which has least.
    """
    alike = [rest for rest in rests[1:] if rest.threads == rests[-1].threads]
    if len(alike) < 2:
        return None
    first, *later = alike
    return min((rest.blocks - first.blocks) / (rest.came - first.came) for rest in later)


def run(args: argparse.Namespace) -> tuple[list[Rest], dict[str, Any]]:
    """Returns what there was after each round, and what went wrong."""
    command = [*soak.SERVER.command(), str(args.every)]
    server = rig.Peer(soak.SERVER.name, command, None, soak.SERVER.path(), NOTHING_AT_HAND if args.exact else None)
    rests: list[Rest] = []
    try:
        soaking = soak.Soak(server, json.loads(server.hear(rig.START_TIMEOUT_S)), args)
        for _ in range(args.rounds):
            soaking.fill(args.connections)
            soaking.churn(time.monotonic() + args.seconds)
            if not soaking.empty():
                raise rig.Failed(f"not all have left: {soaking.links.told}")
            rests.append(rest_of(soaking))
            print("  ".join(rests[-1].row(rests[0])), flush=True)
    finally:
        server.end()
    return rests, dict(soaking.links.wrongs)


def arguments(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one round")
    parser.add_argument("--connections", type=int, default=300, help="at a time")
    parser.add_argument("--per-second", type=float, default=4000.0, help="that come and go, if they can")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two messages of a connection")
    parser.add_argument("--kinds", nargs="+", choices=soak.KINDS, default=list(soak.KINDS), help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exact", action="store_true", help="the C library keeps nothing at hand")
    parser.add_argument("--smoke", action="store_true", help="four rounds of a second")
    args = parser.parse_args(command)
    if args.smoke:
        args.rounds, args.seconds = 4, 1.0
    # As the soak takes it: the share that is replaced in a minute.
    args.churn = 60 * args.per_second / args.connections
    return args


def main() -> None:
    args = arguments(sys.argv[1:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("  ".join(HEADER), flush=True)
    rests, wrongs = run(args)
    each = stayed_per_connection(rests)
    most = soak_report.MOST_BLOCKS_PER_CONNECTION
    said = "too short to tell" if each is None else f"{each:+.5f}, at most {most:g}"
    print(f"\nblocks of the interpreter that stay of each connection: {said}\nwrong: {wrongs or 'nothing'}")
    if wrongs or (each is not None and each > most):
        sys.exit(1)


if __name__ == "__main__":
    main()
