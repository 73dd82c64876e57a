"""unlimitedws for bench/senders.py: threads that send to every connection, each message with its CRC.

A line of JSON on stdin says how many: {"connections": , "senders": , "each": messages of a sender to a connection}.
A line of JSON on stdout says how it went.
"""

import json
import struct
import sys
import threading
import time
import zlib
from typing import Any

import unlimitedws

# In one go to one connection, as an application sends that has several things to say.
BURST = 5
# Lengths from 16 bytes to 79, and now and then one whose frame has an extended length.
FILLING = bytes(i * 7 & 0xFF for i in range(5000))
LONG_EVERY = 251

server = unlimitedws.NewServer("0.0.0.0:0")
conns: dict[int, Any] = {}


@server.on_connect
def remember(conn: Any) -> None:
    conns[int(conn.path[1:])] = conn


class Sender(threading.Thread):
    def __init__(self, number: int, receivers: list[tuple[int, Any]], each: int) -> None:
        super().__init__()
        # Everybody begins somewhere else, and they meet on the way.
        first = number * len(receivers) // task["senders"]
        self.number, self.receivers, self.each = number, receivers[first:] + receivers[:first], each
        self.full = 0
        self.failure = ""

    def run(self) -> None:
        try:
            for begin in range(0, self.each, BURST):
                for index, conn in self.receivers:
                    for seq in range(begin, min(begin + BURST, self.each)):
                        self.send(conn, index, seq)
        except unlimitedws.ConnectionClosed as gone:
            self.failure = f"sender {self.number}: {gone}"

    def send(self, conn: Any, index: int, seq: int) -> None:
        filling = FILLING if seq % LONG_EVERY == LONG_EVERY - 1 else FILLING[: (seq + index) % 64]
        body = struct.pack("<III", index, self.number, seq) + filling
        message = struct.pack("<I", zlib.crc32(body)) + body
        while True:
            try:
                conn.send(message)
                return
            except TimeoutError:
                # Nothing of it was sent: the peer is slower than we are, and this is how we are told.
                self.full += 1


with server:
    print(server.local_addr.port, flush=True)
    task = json.loads(sys.stdin.readline())
    while len(conns) < task["connections"]:
        time.sleep(0.001)
    senders = [Sender(number, sorted(conns.items()), task["each"]) for number in range(task["senders"])]
    begin = time.monotonic()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    print(
        json.dumps(
            {
                "seconds": time.monotonic() - begin,
                "full": sum(sender.full for sender in senders),
                "error": next((sender.failure for sender in senders if sender.failure), ""),
            }
        ),
        flush=True,
    )
    sys.stdin.readline()
