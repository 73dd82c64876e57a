"""uWebSockets through socketify, as its documentation has it. With "hook": an upgrade handler in Python as well."""

import socket
import sys
from typing import Any

from socketify import App, CompressOptions


def echo(ws: Any, message: Any, opcode: Any) -> None:
    ws.send(message, opcode)


def upgrade(res: Any, req: Any, context: Any) -> None:
    res.upgrade(
        req.get_header("sec-websocket-key"),
        req.get_header("sec-websocket-protocol"),
        req.get_header("sec-websocket-extensions"),
        context,
    )


# It does not tell which port it got.
with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]

behavior: dict[str, Any] = {
    "compression": CompressOptions.DISABLED,
    "max_payload_length": 2 << 20,
    "max_backpressure": 16 << 20,
    "idle_timeout": 0,
    "message": echo,
}
if sys.argv[1:] == ["hook"]:
    behavior["upgrade"] = upgrade
app = App()
app.ws("/*", behavior)
app.listen(port, lambda config: print(config.port, flush=True))
app.run()
