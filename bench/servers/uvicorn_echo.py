"""uvicorn with its defaults, and the smallest ASGI application that echoes."""

import socket
from typing import Any

import uvicorn


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    while True:
        event = await receive()
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif event["type"] == "websocket.receive":
            data = {key: event[key] for key in ("bytes", "text") if event.get(key) is not None}
            await send({"type": "websocket.send", **data})
        else:
            return


with socket.create_server(("0.0.0.0", 0), backlog=4096) as listener:
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", backlog=4096)).run(sockets=[listener])
