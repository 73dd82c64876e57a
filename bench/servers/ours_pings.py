"""A server that only holds connections: pings every BENCH_PING_INTERVAL seconds of silence, "none" for never."""

import os

import unlimitedws

interval = os.environ["BENCH_PING_INTERVAL"]
server = unlimitedws.Server("127.0.0.1:0", ping_interval=None if interval == "none" else float(interval))
server.run(ready=lambda: print(server.local_addr.port, flush=True))
