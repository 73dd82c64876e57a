"""Chromium as the client: a page, served here, opens a WebSocket and posts what it saw."""

from __future__ import annotations

import base64
import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fixtures import EchoServer

from .chromium import CHROMIUM, TIMEOUT_S, browser
from .exchange import BLOB, CLOSE_CODE, CLOSE_REASON, TEXT

PAGE = Path(__file__).resolve().parent / "page.html"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class WebServer(ThreadingHTTPServer):
    """Serves the page and takes its result. Its threads are joined: none holds a socket afterwards."""

    daemon_threads = False

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.wanted = wanted
        self.seen: queue.Queue[dict[str, Any]] = queue.Queue()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: WebServer
    # A browser opens connections ahead of need; one without a request must not keep its thread for ever.
    timeout = 5.0

    def reply(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/":
            self.reply(200, "text/html; charset=utf-8", PAGE.read_bytes())
        elif self.path == "/wanted":
            self.reply(200, "application/json", json.dumps(self.server.wanted).encode())
        else:
            self.reply(404, "text/plain", b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(204, "text/plain", b"")
        self.server.seen.put(json.loads(body))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_exchange_and_clean_close(echo_server: EchoServer, tmp_path: Path) -> None:
    wanted = {
        "url": echo_server.url,
        "text": TEXT,
        "blob": base64.b64encode(BLOB).decode(),
        "code": CLOSE_CODE,
        "reason": CLOSE_REASON,
    }
    with WebServer(wanted) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            with browser(f"http://127.0.0.1:{web.server_port}/", tmp_path / "profile"):
                seen = web.seen.get(timeout=TIMEOUT_S)
        except queue.Empty:
            log = (tmp_path / "chromium.log").read_text(errors="replace")
            pytest.fail(f"the page posted nothing within {TIMEOUT_S:g} s; chromium said:\n{log[-2000:]}")
        finally:
            web.shutdown()
            thread.join()
    assert "error" not in seen, seen
    text, blob = seen["messages"]
    assert text == {"text": TEXT}
    assert base64.b64decode(blob["blob"]) == BLOB
    assert (seen["code"], seen["clean"]) == (CLOSE_CODE, True)
    _, code, reason = echo_server.wait_closed()
    assert (code, reason) == (CLOSE_CODE, CLOSE_REASON)
