"""aiohttp on uvloop, as its documentation has it; without the compression that it negotiates by default."""

import socket

import uvloop
from aiohttp import WSMsgType, web


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    async for message in ws:
        if message.type == WSMsgType.BINARY:
            await ws.send_bytes(message.data)
        elif message.type == WSMsgType.TEXT:
            await ws.send_str(message.data)
    return ws


async def main() -> web.Application:
    app = web.Application()
    app.router.add_get("/{path:.*}", echo)
    return app


with socket.create_server(("0.0.0.0", 0), backlog=4096) as listener:
    print(listener.getsockname()[1], flush=True)
    uvloop.install()
    web.run_app(main(), sock=listener, print=None, access_log=None, backlog=4096)
