"""Sending from anywhere: 8 Python threads send to 1,000 connections, and the client checks every byte.

    python bench/senders.py [--messages 10000000] [--connections 1000] [--senders 8] [--smoke]

Each message has a CRC-32, the connection that it is for, its sender, and the how manieth it is from that sender to that
connection. The client, in C, checks all of them, and that none is missing at the end. Exits 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import rig

OURS = rig.Server("ours", "ours_senders.py", ("unlimitedws",), ("unlimitedws",))


def run(connections: int, senders: int, messages: int, patience: float) -> dict[str, Any]:
    """Have messages sent and checked. Returns what client and server counted.

    messages: in all, a multiple of connections * senders.
    patience: seconds for all of it.
    """
    server_core, client_core = rig.cores()
    options = {"connections": connections, "senders": senders, "messages": messages}
    with (
        rig.serving(OURS, server_core) as (peer, port),
        rig.probing(client_core, port, "stream", **options) as client,
    ):
        task = {"connections": connections, "senders": senders, "each": messages // (connections * senders)}
        peer.say(json.dumps(task))
        checked = json.loads(client.hear(patience))
        sent = json.loads(peer.hear(rig.PATIENCE_S))
    return {
        "messages": checked["messages"],
        "wrong": checked["wrong"],
        "lost_connections": connections - checked["open"],
        "error": checked["error"] or sent["error"],
        "payload_bytes": checked["payload_bytes"],
        "seconds": checked["seconds"],
        "messages_per_s": checked["messages_per_s"],
        "full": sent["full"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--smoke", action="store_true", help="100,000 messages")
    args = parser.parse_args()
    if args.smoke:
        args.messages, args.connections = 100_000, 100
    if args.messages % (args.connections * args.senders):
        raise SystemExit("--messages has to be a multiple of connections * senders")

    rig.print_facts([OURS])
    # 20,000 a second is what nobody here is below.
    result = run(args.connections, args.senders, args.messages, rig.PATIENCE_S + args.messages / 20_000)
    print()
    header = ["senders", "connections", "messages", "wrong", "MB", "seconds", "k messages/s", "buffer full"]
    rig.print_table(
        header,
        [
            [
                str(args.senders),
                f"{args.connections:,}",
                f"{result['messages']:,}",
                f"{result['wrong']:,}",
                f"{result['payload_bytes'] / 1e6:,.0f}",
                f"{result['seconds']:.1f}",
                f"{result['messages_per_s'] / 1000:,.0f}",
                f"{result['full']:,}",
            ]
        ],
    )
    if result["wrong"] or result["error"] or result["messages"] != args.messages:
        raise SystemExit(f"wrong: {result}")


if __name__ == "__main__":
    main()
