"""uWebSockets through socketify for bench/compressing.py: its shared compressor, as its documentation has it."""

import socket
from typing import Any

from documents import DOCUMENTS
from socketify import App, CompressOptions, OpCode

counted = 0


def answer(ws: Any, message: Any, opcode: Any) -> None:
    global counted
    if message.startswith("["):
        counted += len(message)
    elif message == "count":
        ws.send(str(counted), OpCode.TEXT)
    else:
        name, times = message.split()
        for i in range(int(times)):
            ws.send(DOCUMENTS[name][i % len(DOCUMENTS[name])], OpCode.TEXT, True)


# It does not tell which port it got.
with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]

app = App()
app.ws(
    "/*",
    {
        "compression": CompressOptions.SHARED_COMPRESSOR,
        "max_payload_length": 1 << 20,
        "max_backpressure": 1 << 30,
        "idle_timeout": 0,
        "message": answer,
    },
)
app.listen(port, lambda config: print(config.port, flush=True))
app.run()
