"""``unlimitedws bench``: load on any WebSocket server, and what came out of it."""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..loadgen import LoadOptions, Run

__all__ = ["add_to"]

_EPILOG = """\
examples:
  unlimitedws bench ws://127.0.0.1:8000/ -c 1000                      closed loop, one message under way on each
  unlimitedws bench ws://127.0.0.1:8000/ -c 100 -p 16                 sixteen
  unlimitedws bench ws://127.0.0.1:8000/ -c 100 --rate 10000          open loop: latency from when each was due
  unlimitedws bench ws://127.0.0.1:8000/ -c 100000 --mode idle -d 60  hold them
  unlimitedws bench ws://127.0.0.1:8000/ -c 64 --mode handshakes      connect, upgrade, close, again
  unlimitedws bench ws://127.0.0.1:8000/ -c 1000 --mode broadcast     one publishes, everybody receives

exit status: 0 all well, 1 errors happened, 2 wrong arguments or a load that cannot be made from here,
130 ended early by Ctrl-C (143: by SIGTERM), and what is printed is true of the time it had.
TLS (wss://) and compression are not supported yet."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a command line."""
    parser = commands.add_parser(
        "bench",
        help="put load on a WebSocket server, and measure",
        description="Put load on a WebSocket server, ours or not, and measure. Every reply is compared.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", help="ws://host:port/path, ws://[::1]:8000/, or unix:/path/of/a/socket")
    what = parser.add_argument_group("what")
    what.add_argument(
        "--mode", choices=("echo", "idle", "handshakes", "broadcast"), default="echo", help="default: echo"
    )
    what.add_argument("-c", "--connections", type=_count, default=100, metavar="N", help="default: 100")
    what.add_argument(
        "-d", "--duration", type=_seconds, default=10.0, metavar="TIME", help="measured; default: 10s"
    )
    what.add_argument(
        "-w", "--warmup", type=_seconds, default=1.0, metavar="TIME", help="before it; default: 1s"
    )
    what.add_argument(
        "-s",
        "--size",
        type=_size,
        default=32,
        metavar="BYTES",
        help="of a message; default: 32; also 64K, 1M",
    )
    what.add_argument(
        "-p", "--pipelining", type=_count, default=1, metavar="N", help="messages under way each; default: 1"
    )
    what.add_argument(
        "-r", "--rate", type=_rate, default=0.0, metavar="N", help="messages per second on all together"
    )
    what.add_argument("--text", action="store_true", help="text messages; default: binary")
    what.add_argument(
        "--any-reply", action="store_true", help="count whatever comes as a reply, compare nothing"
    )
    what.add_argument(
        "--greeting", type=int, default=0, metavar="N", help="first messages of a connection, no replies"
    )
    what.add_argument("--publishers", type=_count, default=1, metavar="N", help="of a broadcast; default: 1")
    what.add_argument(
        "--others-only", action="store_true", help="a publisher does not get its own publications"
    )
    come = parser.add_argument_group("how they come and go")
    come.add_argument(
        "--ramp", type=_seconds, default=0.0, metavar="TIME", help="to connect; default: as fast as it goes"
    )
    come.add_argument(
        "--connecting", type=_count, default=128, metavar="N", help="handshakes at once; default: 128"
    )
    come.add_argument(
        "--hold", type=_seconds, default=0.0, metavar="TIME", help="between the ramp and the load"
    )
    come.add_argument("--abort", action="store_true", help="end with RST, without a closing handshake")
    come.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="TIME",
        help="for connecting, and for a reply; default: 10s",
    )
    ask = parser.add_argument_group("the handshake")
    ask.add_argument(
        "-H", "--header", action="append", default=[], metavar="'NAME: VALUE'", help="more than once"
    )
    ask.add_argument("--subprotocol", action="append", default=[], metavar="NAME", help="more than once")
    ask.add_argument("--cookie", action="append", default=[], metavar="NAME=VALUE", help="more than once")
    ask.add_argument("--token", metavar="TOKEN", help="Authorization: Bearer TOKEN")
    ask.add_argument("--origin", metavar="ORIGIN", help="as a browser would send it")
    ends = parser.add_argument_group("both ends")
    ends.add_argument("--unix", metavar="PATH", help="connect to a Unix socket instead of the URL's host")
    ends.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="LIST",
        help="local addresses: 10.0.0.5,10.0.0.10-10.0.0.20",
    )
    ends.add_argument(
        "--destination",
        action="append",
        default=[],
        metavar="LIST",
        help="addresses instead of the URL's host",
    )
    ends.add_argument(
        "--threads", type=_count, metavar="N", help="default: 1, more where descriptors are short"
    )
    out = parser.add_argument_group("output")
    out.add_argument("--json", action="store_true", help="the result on stdout as one object")
    out.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=_run, usage_error=parser.error)


def _run(args: argparse.Namespace) -> int:
    # Imported here: whoever serves needs nothing of it.
    from ..loadgen import LoadError, Run

    try:
        options = _options(args)
    except ValueError as exc:
        args.usage_error(str(exc))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        load = Run(options)
        return _measure(load, args)
    except (ImportError, LoadError) as exc:
        print(f"unlimitedws bench: {exc}", file=sys.stderr)
        return 2


def _measure(load: Run, args: argparse.Namespace) -> int:
    from ..loadgen.display import Bar, Lines, Quiet

    ended_by = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal ended_by
        ended_by = number
        load.interrupt()

    display = Quiet() if args.quiet else Bar() if sys.stderr.isatty() else Lines()
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with display:
            result = load.run(display.show)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if args.json:
        print(json.dumps(result.as_dict()))
    else:
        print(_headline(load.options, load.threads))
        print("\n".join(result.lines()))
    if result.interrupted:
        # As a shell has it of a program that a signal ended.
        return 128 + ended_by
    return 1 if result.failed else 0


def _headline(o: LoadOptions, threads: int) -> str:
    parts = [_counted(o.connections, "connection")]
    if o.mode in ("echo", "broadcast"):
        kind = "text" if o.text else "binary"
        parts.append(f"{_counted(o.size, 'byte')} {kind}")
        parts.append(f"{o.rate:,g} messages/s" if o.rate else f"{o.pipelining:,} under way each")
    if threads > 1:
        parts.append(f"{threads} threads")
    return f"{o.url}  {o.mode}, {', '.join(parts)}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def _options(args: argparse.Namespace) -> LoadOptions:
    from ..loadgen import LoadOptions

    headers = []
    for line in args.header:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"--header {line!r}: a name, a colon and a value")
        headers.append((name, value))
    if args.origin is not None:
        headers.append(("Origin", args.origin))
    if args.token is not None:
        headers.append(("Authorization", f"Bearer {args.token}"))
    if args.cookie:
        headers.append(("Cookie", "; ".join(args.cookie)))
    plain: dict[str, Any] = {
        name: getattr(args, name)
        for name in (
            "url", "unix", "mode", "connections", "duration", "warmup", "size", "pipelining", "rate", "text",
            "any_reply", "greeting", "publishers", "others_only", "ramp", "connecting", "hold", "abort", "threads",
        )
    }  # fmt: skip
    return LoadOptions(
        **plain,
        headers=tuple(headers),
        subprotocols=tuple(args.subprotocol),
        sources=tuple(args.source),
        destinations=tuple(args.destination),
        connect_timeout=args.timeout,
        handshake_timeout=2 * args.timeout,
        reply_timeout=args.timeout,
    )


def _count(text: str) -> int:
    """``100000``, ``100,000``, ``100_000`` or ``100k``."""
    return _scaled(text, {"k": 1000, "m": 1000**2})


def _size(text: str) -> int:
    return _scaled(text, {"k": 1024, "m": 1024**2})


def _scaled(text: str, units: dict[str, int]) -> int:
    digits = text.lower().replace(",", "")
    unit = units.get(digits[-1:], 1)
    try:
        return int(digits[:-1] if unit > 1 else digits) * unit
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _rate(text: str) -> float:
    try:
        rate = float(text.replace(",", ""))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not rate > 0:
        # What LoadOptions takes for "no rate" nobody asks for by an option.
        raise argparse.ArgumentTypeError(f"{text}: more than nothing, or no --rate at all")
    return rate


def _seconds(text: str) -> float:
    """``10``, ``10s``, ``500ms``, ``2m``, ``1h``."""
    for suffix, unit in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        if text.endswith(suffix):
            try:
                return float(text[: len(text) - len(suffix)]) * unit
            except ValueError:
                break
    raise argparse.ArgumentTypeError(f"{text!r} is no time, as 10s, 500ms or 2m are")
