"""Floods: peers that send as much as they can of what costs them little, beside honest ones on the same loop.

    python bench/floods.py [--only fragments bombs ...] [--share 1.0] [--write]

Ten million empty fragments, ten million pings, ten million close frames, thousands of connections that close at once,
bombs of every kind, and peers that vanish; with `--only cycles` a million connections that come and go. The floods
come from wsflood (bench/native), at the lowest priority of a core that they share with wsprobe, which is the honest
ones: ten connections with 200 echoes a second in all, timed from when each was due. The server has one loop, and a
core to itself.

Of each flood is told what it came to and how the server ended it; by how much the server's resident memory grew at
most, beside what docs/limits.md allows its connections; the server's CPU for one unit; and the honest ones' round
trips before and meanwhile. Exits 1 if a target is not met. --write records it in bench/results/floods.json and
floods.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cycles
import rig
import vanished
from flooded import allowed_bytes, files_at_rest, flooded, settled
from processes import cpu_seconds, forget_peak, resident_bytes, status_bytes

RESULTS = rig.BENCH / "results"
MIB = 1 << 20
FLOOD_TIMEOUT_S = 1800.0
# The honest ones: their number, and their echoes a second in all.
HONEST, HONEST_RATE = 10, 200
QUIET_S = 2.0

# What is promised. The number for a handshake beside slow ones; an echo has no better excuse.
MAX_P99_MS = 50.0
# To refuse a bomb is to inflate one message of the limit and no more: 1 MiB of zeros takes zlib some 2 ms.
MAX_BOMB_CPU_MS = 20.0
# Of one that was made to take its time: 1 MiB of tables takes it some 80 ms. An echo is promised no less than as many
# of those as there are peers who send them: each has his turn, and inflating one is not interrupted.
MAX_SLOW_BOMB_CPU_MS = 120.0

# What all who close at once take together, each its turn: sockets, timers, on_close.
CLOSE_MS = 0.025

MASK = b"\x00\x00\x00\x00"
OP_CONT, OP_TEXT, OP_BINARY, OP_CLOSE, OP_PING = 0, 1, 2, 8, 9
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, deflated: bool = False) -> bytes:
    """A client's frame; its masking key is zero, so that a block of many can be sent over and over."""
    first = (0x80 if fin else 0) | (0x40 if deflated else 0) | opcode
    if len(payload) < 126:
        length = struct.pack("!B", 0x80 | len(payload))
    elif len(payload) < 65536:
        length = struct.pack("!BH", 0x80 | 126, len(payload))
    else:
        length = struct.pack("!BQ", 0x80 | 127, len(payload))
    return bytes([first]) + length + MASK + payload


CLOSE = frame(OP_CLOSE, struct.pack("!H", 1000))


# --- bombs ---


@cache
def deflated(size: int) -> bytes:
    """So many zeros as a message of permessage-deflate: a thousandth of them."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    chunk = bytes(min(size, MIB))
    out = b"".join(deflater.compress(chunk) for _ in range(size // len(chunk)))
    return (out + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def in_fragments(data: bytes, count: int) -> bytes:
    """One compressed message in so many frames, as one that is streamed."""
    step = -(-len(data) // count)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    return b"".join(
        frame(OP_CONT if i else OP_BINARY, piece, fin=i == len(pieces) - 1, deflated=i == 0)
        for i, piece in enumerate(pieces)
    )


@cache
def empty_blocks(size: int) -> bytes:
    """A compressed message of blocks that come to nothing, each with Huffman tables that have to be built first.

    It inflates to no byte, so no limit on that ends it: what it costs is bounded by its own length.
    """
    bits: list[int] = []

    def put(value: int, count: int) -> None:
        bits.extend(value >> n & 1 for n in range(count))

    def code(value: int, count: int) -> None:
        bits.extend(value >> n & 1 for n in reversed(range(count)))

    # RFC 1951, section 3.2.7. 258 lengths and literals: 254 with 8 bits and 4 with 9; no distances. Eight such blocks
    # end with a byte.
    eight, nine, again, none = 0b01, 0b10, 0b11, 0b00
    for _ in range(8):
        put(0, 1)
        put(2, 2)
        put(1, 5)
        put(0, 5)
        put(3, 4)
        for length in (2, 0, 0, 2, 2, 0, 2):
            put(length, 3)
        code(eight, 2)
        for _ in range(42):
            code(again, 2)
            put(3, 2)
        code(eight, 2)
        code(nine, 2)
        code(again, 2)
        put(0, 2)
        code(none, 2)
        code(510, 9)
    whole = bytes(sum(bit << n for n, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))
    # And as a sync flush ends, whose four bytes RFC 7692 takes away.
    return whole * (size // len(whole)) + b"\x00"


# --- what is sent ---


@dataclass(frozen=True)
class Flood:
    """One kind of flood: what every connection sends, and how it has to end.

    units: of --unit, over all connections; `each` of them on one connection.
    codes: the close codes that the server may say. together: all connections are opened before the first one sends.
    limit: what bounds it, as it is called in docs/limits.md.
    parts: those of the formula of docs/limits.md that it may fill.
    """

    key: str
    title: str
    unit: bytes
    each: int
    connections: int
    at_once: int
    code: int
    limit: str
    first: bytes = b""
    last: bytes = CLOSE
    hook: str = "on_message"
    options: dict[str, Any] = field(default_factory=dict)
    offer: str | None = None
    deaf: bool = False
    together: bool = False
    bombs: bool = False
    slow: bool = False

    @property
    def max_cpu_ms(self) -> float:
        return MAX_SLOW_BOMB_CPU_MS if self.slow else MAX_BOMB_CPU_MS

    @property
    def max_p99_ms(self) -> float:
        if self.slow:
            return self.at_once * MAX_SLOW_BOMB_CPU_MS
        return MAX_P99_MS + self.at_once * CLOSE_MS if self.together else MAX_P99_MS

    @property
    def units(self) -> int:
        return self.each * self.connections


TEN_MILLION = 10_000_000
SIXTEEN = 16
KEPT = {"compression": {"client_context_takeover": True}}
BOMB_BYTES = 256 * MIB


@cache
def floods() -> tuple[Flood, ...]:
    """Every kind, in full size."""
    empty, ping = frame(OP_CONT, fin=False), frame(OP_PING)
    begun = frame(OP_TEXT, fin=False)
    whole_bomb = frame(OP_BINARY, deflated(BOMB_BYTES), deflated=True)
    cut_bomb = in_fragments(deflated(BOMB_BYTES), 1000)
    just = frame(OP_BINARY, deflated(MIB), deflated=True)
    nothing = frame(OP_BINARY, empty_blocks(MIB), deflated=True)
    offered = {"options": {"compression": True}, "offer": OFFER, "bombs": True}
    kept = {"options": KEPT, "offer": OFFER, "bombs": True}
    return (
        Flood("fragments", "empty fragments of a message", empty, 1024, TEN_MILLION // 1024 + 1, 64, 1008,
              "`max_fragments`", first=begun),
        Flood("streamed", "empty fragments, streamed", empty, TEN_MILLION // SIXTEEN, SIXTEEN, SIXTEEN, 1000,
              "nothing is kept", first=begun, last=frame(OP_CONT) + CLOSE, hook="on_fragment"),
        Flood("pings", "pings", ping, TEN_MILLION // SIXTEEN, SIXTEEN, SIXTEEN, 1000, "`max_pings_per_second`"),
        Flood("deaf", "pings, no pong is read", ping, TEN_MILLION // SIXTEEN, SIXTEEN, SIXTEEN, 1000,
              "`max_pings_per_second`", deaf=True),
        Flood("messages", "empty messages", frame(OP_BINARY), TEN_MILLION // SIXTEEN, SIXTEEN, SIXTEEN, 1000,
              "`max_inbox_messages`"),
        Flood("closes", "close frames", CLOSE, 5000, 2000, 64, 1000, "the first one ends it", last=b""),
        Flood("storm", "connections that close at once", CLOSE, 1, 4000, 4000, 1000, "`max_connections`",
              last=b"", together=True),
        Flood("bombs", "256 MiB in 261 kB", whole_bomb, 1, 2000, 16, 1009, "`max_message_bytes`", **offered),
        Flood("bombs-cut", "the same in 1,000 fragments", cut_bomb, 1, 2000, 16, 1009, "`max_message_bytes`",
              **offered),
        Flood("bombs-kept", "the same, the window kept", frame(OP_BINARY, b"\x00", deflated=True) + whole_bomb, 1,
              2000, 16, 1009, "`max_message_bytes`", **kept),
        Flood("bombs-just", "1 MiB in 1 kB, which is allowed", just, 500, SIXTEEN, SIXTEEN, 1000,
              "`max_inbox_bytes`", **offered),
        Flood("bombs-empty", "nothing in 1 MiB", nothing, 10, SIXTEEN, SIXTEEN, 1000, "`max_message_bytes`",
              slow=True, **offered),
    )  # fmt: skip


def scaled(flood: Flood, share: float) -> Flood:
    """The same with fewer units: shorter on few connections, fewer connections where each has its number."""
    if flood.connections <= SIXTEEN:
        return dataclasses.replace(flood, each=max(1, round(flood.each * share)))
    connections = max(1, round(flood.connections * share))
    return dataclasses.replace(flood, connections=connections, at_once=min(flood.at_once, connections))


# --- measuring ---


@dataclass(frozen=True)
class Figures:
    """What one flood came to. Times in seconds, memory in bytes, round trips in milliseconds."""

    units: int
    connections: int
    seconds: float
    codes: dict[str, int]
    unasked: int
    pongs: int
    server_cpu_s: float
    resident: int
    growth: int
    allowed: int
    quiet: tuple[float, float, float]
    honest: tuple[float, float, float]
    echoes: int
    wrong: int
    error: str
    left: dict[str, int]


def honest(core: int, port: int) -> contextlib.AbstractContextManager[rig.Peer]:
    """Ten clients that echo on a schedule until they are told to stop."""
    options = {"connections": HONEST, "rate": HONEST_RATE, "seconds": 3600, "warmup": 0.2, "until_told": True}
    return rig.probing(core, port, "echo", **options)


def trips_ms(told: dict[str, Any]) -> tuple[float, float, float]:
    histogram = told["round_trip"]
    return (histogram["p50_us"] / 1000, histogram["p99_us"] / 1000, histogram["max_us"] / 1000)


@contextlib.contextmanager
def written(parts: dict[str, bytes]) -> Iterator[dict[str, str]]:
    """Files with these bytes, by name."""
    with tempfile.TemporaryDirectory() as place:
        paths = {}
        for name, data in parts.items():
            paths[name] = f"{place}/{name}"
            Path(paths[name]).write_bytes(data)
        yield paths


def wsflood(flood: Flood, port: int, core: int | None) -> dict[str, Any]:
    """Run a flood against a server, behind everybody else of its core; what it came to."""
    with written({"first": flood.first, "unit": flood.unit, "last": flood.last}) as paths:
        command = ["nice", "-n", "19", str(rig.native_tool("wsflood")), "--port", str(port)]
        for name, path in paths.items():
            command += [f"--{name}", path]
        command += ["--repeat", str(flood.each), "--connections", str(flood.connections)]
        command += ["--at-once", str(flood.at_once)]
        command += ["--deaf"] * flood.deaf + ["--together"] * flood.together
        if flood.offer is not None:
            command += ["--field", flood.offer]
        client = rig.Peer("wsflood", command, core, [])
        try:
            told: dict[str, Any] = json.loads(client.hear(FLOOD_TIMEOUT_S))
        finally:
            client.end()
    return told


def run(flood: Flood, quiet_s: float = QUIET_S) -> Figures:
    """Flood a server of its own, with honest clients beside, before and meanwhile. Raises rig.Failed if it ended."""
    server_core, client_core = rig.cores()
    with rig.serving(flooded(flood.hook, flood.options), server_core) as (server, port):
        files = files_at_rest(server, port)
        with honest(client_core, port) as client:
            time.sleep(quiet_s)
            quiet = client.ask("stop")
        if left := settled(server, server.pid, files):
            raise rig.Failed(f"{flood.key}: before the flood there is left {left}")
        forget_peak(server.pid)
        before, cpu = resident_bytes(server.pid), sum(cpu_seconds(server.pid))
        with honest(client_core, port) as client:
            told = wsflood(flood, port, client_core)
            spent = sum(cpu_seconds(server.pid)) - cpu
            during = client.ask("stop")
        left = settled(server, server.pid, files)
        (most,) = status_bytes(server.pid, "VmHWM")
    return Figures(
        units=told.get("units", 0),
        connections=told.get("connections", 0),
        seconds=told.get("seconds", 0.0),
        codes=told.get("codes", {}),
        unasked=told.get("unasked", 0),
        pongs=told.get("pongs", 0),
        server_cpu_s=spent,
        resident=before,
        growth=max(0, most - before),
        allowed=allowed_bytes(flood.options, flood.at_once + HONEST),
        quiet=trips_ms(quiet),
        honest=trips_ms(during),
        echoes=during["round_trip"]["count"],
        wrong=during["wrong"] + (HONEST - during["open"]),
        error=told["error"] or during["error"],
        left=left,
    )


@dataclass(frozen=True)
class Verdict:
    what: str
    met: bool


def verdicts(flood: Flood, figures: Figures) -> list[Verdict]:
    """What is promised of a flood, and whether it was kept."""
    found = [
        Verdict(f"all end with {flood.code}", figures.codes == {str(flood.code): flood.connections}),
        Verdict("no error", not figures.error),
        Verdict("within the formula", figures.growth <= figures.allowed),
        Verdict("nothing left", not figures.left),
        Verdict("every echo came", figures.wrong == 0 and figures.echoes > 0),
        Verdict(f"p99 <= {flood.max_p99_ms:g} ms", figures.honest[1] <= flood.max_p99_ms),
    ]
    if flood.bombs:
        found.append(Verdict(f"<= {flood.max_cpu_ms:g} ms CPU", bomb_cpu_ms(figures) <= flood.max_cpu_ms))
    if flood.key in ("pings", "deaf"):
        from unlimitedws import Options

        most = Options().max_pings_per_second
        assert most is not None
        # A second that has begun counts, and the last pong, which is put off.
        allowed = flood.connections * (most * (figures.seconds + 2) + 1)
        found.append(Verdict(f"at most {most} pongs a second", figures.pongs <= allowed))
    return found


def bomb_cpu_ms(figures: Figures) -> float:
    return 1000 * figures.server_cpu_s / max(figures.units, 1)


HEADER = [
    "flood", "units", "connections", "ended with", "s", "CPU us a unit", "grew by, MiB", "allowed, MiB",
    "echo before: p50 / p99 / max, ms", "meanwhile", "bounded by", "met",
]  # fmt: skip


def row(flood: Flood, figures: Figures) -> list[str]:
    def trips(three: tuple[float, float, float]) -> str:
        return " / ".join(f"{one:.1f}" for one in three)

    missed = [verdict.what for verdict in verdicts(flood, figures) if not verdict.met]
    return [
        flood.title,
        f"{flood.units:,}",
        f"{flood.connections:,}",
        ", ".join(f"{code}" for code in figures.codes) or figures.error,
        f"{figures.seconds:.1f}",
        f"{1e6 * figures.server_cpu_s / flood.units:,.2f}",
        f"{figures.growth / MIB:.1f}",
        f"{figures.allowed / MIB:,.0f}",
        trips(figures.quiet),
        trips(figures.honest),
        flood.limit,
        "yes" if not missed else "NO: " + ", ".join(missed),
    ]


# --- all of it ---

INTRO = """# Floods

Written by `make floods` and `make cycles` ([how](../README.md)); do not edit. The server has one loop and a core to
itself; the flood and the honest clients share the other one, the flood at the lowest priority. The honest ones: ten
connections, 200 echoes a second in all, each timed from when it was due. What is allowed is what the formula of
[docs/limits.md](../../docs/limits.md) comes to for as many connections as there were at once."""


def render(recorded: dict[str, Any]) -> str:
    out = [INTRO, ""]
    if recorded.get("floods"):
        out += ["", *rig.table_lines(HEADER, recorded["floods"])]
    for key, title in (("vanished", "Peers that vanish"), ("cycles", "Connections that come and go")):
        if recorded.get(key):
            out += ["", f"## {title}", "", *rig.table_lines(*recorded[key])]
    out += ["", "## The machine", "", *(f"- {line}" for line in recorded["facts"])]
    return "\n".join(out).replace("\n\n\n", "\n\n") + "\n"


def facts() -> list[str]:
    return [
        f"{rig.cpu_model()}, {os.cpu_count()} cores, kernel {platform.release()}, Python {platform.python_version()}",
        time.strftime("%Y-%m-%d"),
    ]


def record(**tables: Any) -> None:
    """Put tables among those that are recorded, and write the page."""
    path = RESULTS / "floods.json"
    recorded = json.loads(path.read_text()) if path.exists() else {}
    if "floods" in tables and recorded.get("floods"):
        # A run of some replaces those.
        fresh = {cells[0]: cells for cells in tables["floods"]}
        order = [flood.title for flood in floods()]
        rows = {cells[0]: cells for cells in recorded["floods"]} | fresh
        tables["floods"] = [rows[title] for title in order if title in rows]
    recorded |= {**tables, "facts": facts()}
    path.write_text(json.dumps(recorded, indent=1) + "\n")
    (RESULTS / "floods.md").write_text(render(recorded))
    print(f"written: {RESULTS / 'floods.md'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    keys = [flood.key for flood in floods()]
    parser.add_argument("--only", nargs="+", default=[*keys, "vanished"], choices=[*keys, "vanished", "cycles"])
    parser.add_argument("--share", type=float, default=1.0, help="of the full size")
    parser.add_argument("--cycles", type=int, default=1_000_000)
    parser.add_argument("--warmup", type=int, default=50_000, help="cycles before memory is counted")
    parser.add_argument("--vanishing", type=int, default=100, help="peers that vanish")
    parser.add_argument("--write", action="store_true", help="record it in bench/results")
    args = parser.parse_args()
    rig.print_facts([flooded("on_message", {})])
    missed = []
    rows = []
    for flood in floods():
        if flood.key not in args.only:
            continue
        flood = scaled(flood, args.share)
        figures = run(flood)
        rows.append(row(flood, figures))
        print(" | ".join(rows[-1]), flush=True)
        if figures.left or figures.error:
            print(f"  left: {figures.left}; {figures.error}; codes {figures.codes}", flush=True)
        missed += [f"{flood.key}: {one.what}" for one in verdicts(flood, figures) if not one.met]
    tables: dict[str, Any] = {}
    if rows:
        print()
        rig.print_table(HEADER, rows)
        tables["floods"] = rows
    if "vanished" in args.only:
        found = [vanished.run(what, args.vanishing) for what in vanished.WHAT_VANISHED]
        print()
        tables["vanished"] = vanished.table(found)
        rig.print_table(*tables["vanished"])
        missed += [f"vanished, {one.what}" for one in found if not one.met]
    if "cycles" in args.only:
        gone = cycles.run(args.cycles, args.warmup)
        print()
        tables["cycles"] = cycles.table(gone)
        rig.print_table(*tables["cycles"])
        print(", ".join(f"{name} {count:,}" for name, count in gone.ways.items()))
        missed += [] if gone.met else ["cycles"]
    if args.write:
        record(**tables)
    if missed:
        raise SystemExit("not met: " + "; ".join(missed))


if __name__ == "__main__":
    main()
