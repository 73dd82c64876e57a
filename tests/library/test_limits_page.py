"""docs/limits.md says what the program does: every option with its default, every constant, the formula."""

from __future__ import annotations

import re
import threading
from dataclasses import fields
from typing import Any

import pytest
import raw
from library.programs import ROOT
from live import serve, wait, wait_until
from raw import BINARY
from uws_shims import proto_shim, slot_shim, upgrade_shim

from unlimitedws import Compression, Options
from unlimitedws.entrance import _MAX_SUBPROTOCOLS
from unlimitedws.helpers import _MAX_AWAITED, _MAX_JOBS
from unlimitedws.listening import MAX_LISTENERS
from unlimitedws.options import _DIVIDED, _MAX_INT, _MAX_LONG, MAX_LOOPS, MAX_PROCESSES
from unlimitedws.proxies import MAX_NETWORKS
from unlimitedws.request import MAX_SUBPROTOCOL_BYTES

PAGE = (ROOT / "docs" / "limits.md").read_text()
README = (ROOT / "README.md").read_text()
ENGINE = ROOT / "src" / "_uws"
MIB = 1 << 20
UNITS: dict[str, float] = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "s": 1, "ms": 0.001}
ROW = re.compile(r"^\| `([a-z_]+)` \| ([^|]+) \|", re.MULTILINE)
# "(64 KiB)", in the words of a page.
AMOUNT = re.compile(r"([\d,.]+) ?([KMG]iB|m?s|)")


def amount(text: str) -> float:
    """The number that a page says: bytes, seconds, or a count."""
    found = AMOUNT.fullmatch(text)
    assert found is not None, text
    return float(found[1].replace(",", "")) * UNITS[found[2]]


def constant(where: str, name: str) -> int:
    """A constant of the engine, from its source."""
    found = re.search(rf"^ +{name} = (\w+)", (ENGINE / where).read_text(), re.MULTILINE)
    assert found is not None, f"{name} is not in {where}"
    return int(found[1], 0)


def formula() -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    (code,) = re.findall(r"^```python\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/limits.md", "exec"), namespace)
    return namespace


def examples() -> dict[str, Options]:
    """The servers of the page's table, as they are written there."""
    return {
        "`Server()`": Options(),
        "`DefaultServer()`": Options(pool=(128, 128)),
        "`Server(compression=True)`": Options(compression=True),
        "`Server(loops=4)`": Options(loops=4),
        "as below": Options(
            max_message_bytes=64 << 10,
            max_header_bytes=4 << 10,
            max_line_bytes=1 << 10,
            max_incomplete_total_bytes=16 * MIB,
            max_inbox_total_bytes=16 * MIB,
            max_buffered_total_bytes=64 * MIB,
        ),
    }


# --- the options ---


def test_every_option_is_there_once() -> None:
    limits = [name for name, _ in ROW.findall(PAGE)]
    switches = re.search(r"^What is no limit: (.+?)\.$", PAGE, re.MULTILINE | re.DOTALL)
    assert switches is not None
    told = sorted(limits + re.findall(r"`(\w+)`", switches[1]))
    assert told == sorted(field.name for field in fields(Options))


@pytest.mark.parametrize(("name", "default"), ROW.findall(PAGE))
def test_default_is_the_options(name: str, default: str) -> None:
    is_there = getattr(Options(), name)
    assert is_there is None if default == "none" else is_there == pytest.approx(amount(default), rel=1e-9)


def test_table_of_the_readme_has_every_limit_with_the_same_default() -> None:
    told = dict(ROW.findall(PAGE))
    section = README.split("## Limits", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", section, re.MULTILINE)
    shown = {name: rest for names, rest in rows for name in re.findall(r"\w+", names)}
    of_workers = {"loops", "workers", "worker_restart_limit", "worker_restart_window", "request_workers"}
    assert set(shown) == set(told) - of_workers
    for name, rest in shown.items():
        default = told[name]
        assert default == "none" or default in rest, (name, rest)


def test_what_loops_divide_is_what_the_server_divides() -> None:
    divided = re.search(r"^\*\*Divided among `loops`:\*\* (.+?)\. Each", PAGE, re.MULTILINE | re.DOTALL)
    assert divided is not None
    names = set(re.findall(r"`(\w+)`", divided[1]))
    # Both numbers of a pool.
    assert {"runners", "jobs"} <= set(_DIVIDED)
    assert names == {*_DIVIDED, "pool"} - {"runners", "jobs"}
    small = Options(loops=8, pool=(4, 4), max_inbox_total_bytes=1)
    assert [(each["runners"], each["jobs"], each["max_inbox_total_bytes"]) for each in small.settings_of_loops()] == [
        (1, 1, 1)
    ] * 8
    for name in names:
        assert f"`{name}`" in README.split("## Limits", 1)[1].split("divided among the loops", 1)[0], name


@pytest.mark.parametrize(
    "figure",
    [
        f"up to {_MAX_INT:,}",
        f"up to {_MAX_LONG:,}",
        f"at most {MAX_LOOPS} ",
        f"at most {MAX_PROCESSES} ",
        f"{_MAX_JOBS:,} requests may wait",
        f"| coroutine hooks that run at a time, or wait for their thread | {_MAX_AWAITED:,} |",
        f"| networks in `trusted_proxies` | {MAX_NETWORKS} |",
        f"| listening sockets | {MAX_LISTENERS} |",
        f"| subprotocols of ours, and bytes of one | {_MAX_SUBPROTOCOLS}, {MAX_SUBPROTOCOL_BYTES} |",
    ],
)
def test_bounds_of_the_library_are_there(figure: str) -> None:
    assert figure in PAGE


@pytest.mark.parametrize(
    ("what", "told", "where", "name"),
    [
        ("control frame's payload", 0, "frame.pxd", "UWS_MAX_CONTROL_BYTES"),
        ("message of a connection that nobody has identified yet", 0, "traffic.pyx", "STRANGER_BYTES"),
        ("queue above which only the newest ping is answered", 0, "traffic.pyx", "PONG_BACKLOG_BYTES"),
        ("bytes that one connection may bring in a turn", 0, "state.pxd", "UWS_READ_BYTES"),
        ("... if it is compressed", 0, "read.pyx", "DEFLATED_READ_BYTES"),
        ("... if it is compressed", 1, "read.pyx", "BUSY_READ_BYTES"),
        ("... while all inboxes together are full", 0, "read.pyx", "FLOODED_READ_BYTES"),
        ("PROXY header", 0, "proxy.pxd", "UWS_PROXY_MAX_BYTES"),
        ("field in which a proxy names its client", 0, "state.pxd", "UWS_MAX_FORWARDED_BYTES"),
        ("subprotocols that a client offers", 0, "upgrade.pxd", "UWS_UPGRADE_MAX_PROTOCOLS"),
        ("close reason", 0, "frame.pxd", "UWS_MAX_REASON_BYTES"),
    ],
)
def test_bounds_of_the_engine_are_there(what: str, told: int, where: str, name: str) -> None:
    (row,) = re.findall(rf"^\| {re.escape(what)}[^|]*\| ([^|]+) \|", PAGE, re.MULTILINE)
    shown = [part.strip().removesuffix(" bytes") for part in re.split(r"(?<=B),", row)]
    assert amount(shown[told]) == constant(where, name)


# --- the formula ---


@pytest.mark.parametrize(
    ("name", "is_there"),
    [
        ("SLOT", slot_shim.SLOT_BYTES),
        ("ROW", slot_shim.EXTRA_BYTES),
        ("PARTIAL", proto_shim.PARTIAL_BYTES),
        ("REQUEST", upgrade_shim.STATE_BYTES),
        ("EVENT", slot_shim.EVENT_BYTES),
        ("NOTE", slot_shim.NOTE_BYTES),
        ("CHUNK", slot_shim.CHUNK_BYTES),
        ("LARGEST_CHUNK", constant("outq.pyx", "MAX_CHUNK_BYTES")),
        ("PROXY_HEADER", constant("proxy.pxd", "UWS_PROXY_MAX_BYTES")),
        ("ARENA", constant("state.pxd", "UWS_ARENA_BYTES")),
        ("EVENTS", constant("state.pxd", "UWS_BATCH_EVENTS")),
        ("OWNED", constant("state.pxd", "UWS_BATCH_OWNED_BYTES")),
        ("SCRATCH", constant("state.pxd", "UWS_SCRATCH_EVENTS")),
        ("READ", constant("state.pxd", "UWS_READ_BYTES")),
        ("DEFLATED_READ", constant("read.pyx", "DEFLATED_READ_BYTES")),
        ("FLOODED_READ", constant("read.pyx", "FLOODED_READ_BYTES")),
        ("SHORTEST_FRAME", constant("proto.pxd", "UWS_MIN_FRAME_BYTES")),
        ("SHORTEST_NOTE", constant("post.pxd", "UWS_NOTE_COST_BYTES")),
        ("SLAB_CLASSES", constant("slab.pxd", "UWS_SLAB_CLASSES")),
        ("SLAB_ARENA", constant("slab.pxd", "UWS_SLAB_ARENA_BYTES")),
        ("SLAB_EXTRA", constant("slab.pxd", "UWS_SLAB_MAX_EXTRA")),
        ("SLAB_LARGE", constant("slab.pxd", "UWS_SLAB_MAX_LARGE")),
        ("SLAB_KEEP", constant("slab.pxd", "UWS_SLAB_KEEP_BYTES")),
    ],
)
def test_constant_of_the_formula_is_the_engines(name: str, is_there: int) -> None:
    assert formula()[name] == is_there


def test_block_of_the_formula_is_the_slabs() -> None:
    block = formula()["block"]
    classes = [size << power for power in range(11) for size in (64, 96)][:21]
    assert classes[-1] == constant("slab.pxd", "UWS_SLAB_MAX_CLASS_BYTES")
    for size in range(1, classes[-1] + 1, 7):
        assert block(size) == min(each for each in classes if each >= size)
    assert block(65_537) == 2 * 69_632
    assert block(65_537, grows=True) == constant("slab.pxd", "UWS_SLAB_KEEP_BYTES")
    # What a note without a payload takes is what it is counted with; a side block is in its class.
    assert block(slot_shim.NOTE_BYTES) == constant("post.pxd", "UWS_NOTE_COST_BYTES")
    assert block(slot_shim.SIDE_BYTES) == formula()["SIDE"]


def table() -> str:
    worst_case = formula()["worst_case"]
    rows = []
    for name, options in examples().items():
        cells = [f"{round(sum(worst_case(options, n).values()) / MIB):,}" for n in (1_000, 10_000, 100_000)]
        rows.append(f"| {name} | {' | '.join(cells)} |\n")
    return "".join(rows)


def test_table_of_worst_cases_is_computed() -> None:
    lines = re.MULTILINE | re.DOTALL
    (shown,) = re.findall(r"^<!-- worst cases: .+? -->\n(.+?)^<!-- end of worst cases -->", PAGE, lines)
    assert "".join(shown.splitlines(keepends=True)[2:]) == table()


def test_tightened_server_of_the_page_is_the_one_of_the_table() -> None:
    (keywords,) = re.findall(r"^As below: `(Options\(.+?\))`", PAGE, re.MULTILINE | re.DOTALL)
    assert eval(keywords, {"Options": Options, "MIB": MIB}) == examples()["as below"]


def test_worst_case_grows_with_every_limit() -> None:
    """No limit of memory is forgotten in it."""
    worst_case = formula()["worst_case"]
    few: dict[str, Any] = {"compression": True, "trusted_proxies": ["unix"], "proxy_protocol": True, "pool": (8, 8)}
    in_few = sum(worst_case(Options(**few), 100_000, 1000).values())
    for name in (
        "max_message_bytes",
        "max_header_bytes",
        "max_line_bytes",
        "max_inbox_total_bytes",
        "max_incomplete_total_bytes",
        "max_buffered_total_bytes",
        "loops",
    ):
        # A connection is in its handshake or open, and what it has then is the more: so not just twice.
        more = Options(**few, **{name: 16 * getattr(Options(), name)})
        assert sum(worst_case(more, 100_000, 1000).values()) > in_few, name
    plain, ours, both = (
        sum(worst_case(Options(compression=compression), 1000).values())
        for compression in (
            False,
            Compression(server_context_takeover=True),
            Compression(server_context_takeover=True, client_context_takeover=True),
        )
    )
    assert plain < ours < both
    # Of a few connections it is their own limits that count.
    for name in ("max_inbox_bytes", "max_inbox_messages", "max_buffered_bytes"):
        more = Options(**{name: 2 * getattr(Options(), name)})
        assert sum(worst_case(more, 1).values()) > sum(worst_case(Options(), 1).values()), name


def test_peers_of_every_bad_kind_together_stay_within_the_formula() -> None:
    """Heads and messages that do not end, messages that nobody takes, readers that do not read."""
    let_go = threading.Event()
    limits: dict[str, Any] = {
        "max_message_bytes": 64 << 10,
        "max_header_bytes": 4 << 10,
        "max_inbox_total_bytes": 256 << 10,
        "max_incomplete_total_bytes": 256 << 10,
        "max_buffered_bytes": 64 << 10,
        "max_buffered_total_bytes": 512 << 10,
        "overflow": "drop-newest",
        "raise_nofile_limit": False,
    }
    each = 20
    sent = 30_000
    options = Options(**limits)
    parts = formula()["worst_case"](options, 4 * each + 1, sent)
    bound = parts["connections"] + parts["inboxes"] + parts["incomplete"] + parts["queues"]

    def on_message(conn: Any, message: bytes) -> None:
        if message == b"send":
            for _ in range(400):
                conn.send(bytes(sent))
        else:
            wait(let_go)

    most = 0

    def look() -> int:
        nonlocal most
        most = max(most, live.server.counters()["slab_used_bytes"])
        return most

    with serve(on_message=on_message, **limits) as live:
        try:
            readers = [live.connect(rcvbuf=4096) for _ in range(each)]
            for reader in readers:
                reader.send_frame(BINARY, b"send")
            wait_until(lambda: look() and live.server.counters()["messages_in"] >= each, "the senders")
            for n in range(each):
                live.connect(handshake=False).send(b"GET /%d HTTP/1.1\r\nX: " % n + b"x" * 4000)
            for _ in range(each):
                live.connect().send(raw.frame(BINARY, bytes(60_000))[:50_000])
            wait_until(lambda: look() and live.server.counters()["incomplete_bytes"] > 128 << 10, "halves")
            for _ in range(each):
                live.connect().send(raw.frame(BINARY, bytes(20_000)) * 2)
            wait_until(lambda: look() and live.server.counters()["pauses"] >= 1, "inboxes that are full")
            # It was something: half a megabyte at least.
            assert 512 << 10 < look() <= bound
        finally:
            let_go.set()
