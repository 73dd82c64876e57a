"""A chat room, and the page to be in it.

    python chat.py           http://localhost:8000/
"""

import contextlib
import json
import sys
import threading
from collections import deque
from pathlib import Path
from urllib.parse import parse_qs

import unlimitedws

server = unlimitedws.DefaultServer(
    f":{sys.argv[1] if len(sys.argv) > 1 else 8000}",
    page=Path(__file__).with_name("chat.html").read_bytes(),
    max_message_bytes=4096,
    # Nobody waits for one who does not read: he is dropped, comes back, and gets what was said.
    overflow="close",
)
room = {}  # who is in it: a connection, and its name
said = deque(maxlen=50)
# Callbacks of different connections run side by side. Under the lock all members see the same order.
lock = threading.Lock()


def tell(**event):
    """Send an event to all in the room; the lock is held."""
    text = json.dumps(event)
    for member in room:
        with contextlib.suppress(unlimitedws.ConnectionClosed):  # its on_close is on its way
            member.send(text)


@server.on_connect
def enter(conn):
    name = parse_qs(conn.query).get("name", [""])[0].strip()[:20] or "somebody"
    with lock:
        room[conn] = name
        conn.send(json.dumps({"said": list(said)}))
        tell(members=sorted(room.values()))


@server.on_message
def say(conn, message):
    if isinstance(message, bytes):
        conn.close(1003, "text only")
        return
    with lock:
        line = {"name": room[conn], "text": message}
        said.append(line)
        tell(said=[line])


@server.on_close
def leave(conn):
    with lock:
        room.pop(conn, None)
        tell(members=sorted(room.values()))


server.run(ready=lambda: print(f"http://localhost:{server.local_addr.port}/", flush=True))
