"""A service that computes, in Python, for seconds: how many ways are there to place n queens on a board of n by n?

Nothing in here looks after the sockets meanwhile. The engine does: it answers pings, lets newcomers in, keeps the
deadlines and sends what is queued, without the GIL.

    python queens.py         http://localhost:8000/
"""

import sys
from pathlib import Path

import unlimitedws

server = unlimitedws.Server(
    f":{sys.argv[1] if len(sys.argv) > 1 else 8000}",
    page=Path(__file__).with_name("queens.html").read_bytes(),
    # Four boards at a time; they share the GIL. For one on each processor: workers=4.
    pool=(4, 128),
    max_message_bytes=16,
)


def ways(n, row=0, columns=0, left=0, right=0):
    """Count them, by trying: 13 takes seconds, and each more some six times as long."""
    if row == n:
        return 1
    count = 0
    free = ((1 << n) - 1) & ~(columns | left | right)
    while free:
        place = free & -free
        free ^= place
        count += ways(n, row + 1, columns | place, (left | place) << 1, (right | place) >> 1)
    return count


@server.on_message
def solve(conn, message):
    try:
        n = int(message)
    except ValueError:
        n = 0
    if not 1 <= n <= 14:
        conn.send("a number from 1 to 14, please")
        return
    # It does not wait for the callback to return: another thread sends what is queued.
    conn.send(f"{n} queens: computing")
    conn.send(f"{n} queens: {ways(n)} ways")


server.run(ready=lambda: print(f"http://localhost:{server.local_addr.port}/", flush=True))
