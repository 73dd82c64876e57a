"""docs/requests.md is one program, and does what the page says."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from raw import RawClient, request

PAGE = Path(__file__).parents[2] / "docs" / "requests.md"


def test_page_does_what_it_says() -> None:
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    program = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(program, PAGE, "exec"), names)
    server = names["server"]
    with server:
        port = server.local_addr.port

        def ask(path: str, host: str = f"127.0.0.1:{port}", **fields: str) -> tuple[int, dict[str, str]]:
            with RawClient(port, handshake=False) as client:
                headers = [(name.replace("_", "-"), value) for name, value in fields.items()]
                client.send(request(path, host=host, headers=headers))
                response = client.recv_response()
                return response.status, response.headers

        status, headers = ask("/?room=hall", Cookie="guest=ann", Sec_WebSocket_Protocol="chat.v1, chat.v2")
        assert (status, headers["x-room"], headers["sec-websocket-protocol"]) == (101, "hall", "chat.v2")
        assert ask("/?room=cellar", Cookie="guest=ann")[0] == 403
        assert ask("/")[0] == 403
        assert ask("/", "evil.example", Cookie="guest=ann")[0] == 421
        assert ask("/", Cookie="guest=ann", X_Debug="1")[0] == 400
        for path, expected in (("/healthz", b"ok\n"), ("/metrics", b"unlimitedws_connections ")):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
                assert expected in response.read()
        with pytest.raises(urllib.error.HTTPError, match="426"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/other", timeout=10)
