"""``unlimitedws echo``: an echo server, and a page to try it on."""

from __future__ import annotations

import argparse
import logging
import sys
from importlib.resources import files
from typing import TYPE_CHECKING

from ..conn import Conn
from ..options import OptionKeywords
from ..server import DefaultServer, Server

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["add_to", "echo_server"]

STATS_PATH = "/stats"
# An echo server that gives up on a peer who reads slowly echoes nothing to it at all.
_ECHO_IO_TIMEOUT = 10.0

# The package that has the page: this one's parent.
_PACKAGE = "unlimitedws"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a command line."""
    parser = commands.add_parser(
        "echo",
        help="send every message back, and serve a page to try it on",
        description="Send every message back to whom it came from, and serve a page at / to try it on.",
    )
    parser.add_argument(
        "--addr",
        default=":8000",
        help='":8000", "127.0.0.1:8000", "[::1]:0", "unix:/path", "fd:3", "systemd" ...; default %(default)s',
    )
    threads = parser.add_mutually_exclusive_group()
    threads.add_argument(
        "--pool",
        nargs=2,
        type=int,
        default=(128, 128),
        metavar=("WORKERS", "JOBS"),
        help="most threads for callbacks, most connections that wait for one; default 128 128",
    )
    threads.add_argument("--inline", action="store_true", help="no pool: callbacks run on the polling thread")
    parser.add_argument("--no-page", dest="page", action="store_false", help="serve no page at /")
    parser.add_argument("--max-message-bytes", type=int, metavar="N", help="longest message; default 1 MiB")
    parser.add_argument("--max-connections", type=int, metavar="N", help="default: as many as descriptors")
    parser.add_argument("--loops", type=int, metavar="N", help="loops that share the connections; default 1")
    parser.add_argument(
        "--private-fds",
        action="store_true",
        help="a descriptor table for each loop, so that RLIMIT_NOFILE counts for each",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that share the port; default 1")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the server does to stderr")
    parser.set_defaults(run=_run, usage_error=parser.error)


def echo_server(addr: str, **options: Unpack[OptionKeywords]) -> Server:
    """Make the server of ``unlimitedws echo``.

    Every message comes back as it was. Only on the path ``/stats`` a text message is answered with the number
    of open connections: that is how the page asks.
    """
    options.setdefault("io_timeout", _ECHO_IO_TIMEOUT)
    server = DefaultServer(addr, **options)

    @server.on_message
    def echo(conn: Conn, message: str | bytes) -> None:
        if conn.path == STATS_PATH and isinstance(message, str):
            conn.send(str(server.connections))
        else:
            conn.send(message)

    return server


def _run(args: argparse.Namespace) -> int:
    """Serve; 0 when stopped by SIGINT or SIGTERM, 1 when the address cannot be had."""
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    options: OptionKeywords = {
        "pool": None if args.inline else (args.pool[0], args.pool[1]),
        "private_fds": args.private_fds,
    }
    if args.max_message_bytes is not None:
        options["max_message_bytes"] = args.max_message_bytes
    if args.max_connections is not None:
        options["max_connections"] = args.max_connections
    if args.loops is not None:
        options["loops"] = args.loops
    if args.workers is not None:
        options["workers"] = args.workers
    if args.page:
        options["page"] = _page()
    try:
        server = echo_server(args.addr, **options)
    except ValueError as exc:
        args.usage_error(str(exc))
    except OSError as exc:
        print(f"unlimitedws: {exc.strerror}", file=sys.stderr)
        return 1
    try:
        server.run(ready=lambda: print(_greeting(server, args.page), flush=True))
    except RuntimeError as exc:
        if server.options.workers == 1:
            raise
        # The workers have said what was wrong with them.
        print(f"unlimitedws: {exc}", file=sys.stderr)
        return 1
    return 0


def _page() -> bytes:
    return (files(_PACKAGE) / "static" / "echo.html").read_bytes()


def _greeting(server: Server, page: bool) -> str:
    addr = server.local_addr
    listening = f"listening on {' '.join(map(str, server.local_addrs))}"
    if not page or addr.is_unix:
        return listening
    # An address that stands for all of them is none that a browser could go to.
    host = f"localhost:{addr.port}" if addr.host in ("::", "0.0.0.0") else str(addr)
    return f"{listening}, page at http://{host}/"
