"""The example with the login page, in a real browser: logging in, the page of a stranger, logging out, expiring."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import raw
from raw import RawClient

from .chromium import CHROMIUM, Tab, driven

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "login" / "login.py"

pytest.importorskip("itsdangerous")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Example:
    """The running example: `url` of its pages, and `log`, what it has said so far."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def example(directory: Path, *options: str) -> Iterator[Example]:
    """Run the example, as its docstring says, on ports of its own."""
    log = directory / "example.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(EXAMPLE), "--http", "0", "--ws", "0", *options]
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://localhost:"), log.read_text()
            yield Example(url, log)
            process.terminate()
            assert process.wait(20) == 0, log.read_text()
        finally:
            process.kill()
    assert "Traceback" not in log.read_text(), log.read_text()


class Elsewhere(BaseHTTPRequestHandler):
    """A page of another origin; of the same host, so that the browser sends the cookie along."""

    timeout = 5.0

    def do_GET(self) -> None:
        body = b"<!DOCTYPE html><title>elsewhere</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def elsewhere() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as web:
        web.daemon_threads = False
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{web.server_port}/"
        finally:
            web.shutdown()
            thread.join()


def log_in(tab: Tab, user: str, password: str) -> None:
    tab.wait_for("document.readyState === 'complete' && document.title === 'Log in'")
    fields = json.dumps({"user": user, "password": password})
    tab.evaluate(
        f"""(fields => {{
            const form = document.querySelector("form");
            for (const name in fields) form.elements[name].value = fields[name];
            form.querySelector("button").click();
        }})({fields})"""
    )


def shows(tab: Tab, name: str, text: str) -> None:
    tab.wait_for(f"document.getElementById({json.dumps(name)})?.textContent === {json.dumps(text)}")


def dial(tab: Tab, port: int) -> Any:
    """Open a socket from the page that the tab shows; tell how that ended."""
    return tab.evaluate(
        f"""new Promise(resolve => {{
            const socket = new WebSocket("ws://localhost:{port}/");
            socket.onopen = () => {{ resolve("open"); socket.close(); }};
            socket.onclose = event => resolve(event.code);
        }})"""
    )


def status_of(port: int, *fields: tuple[str, str]) -> int:
    with RawClient(port, handshake=False) as client:
        client.send(raw.request(host=f"localhost:{port}", headers=fields))
        return client.recv_response().status


def test_login_hijacking_and_logout(tmp_path: Path) -> None:
    with example(tmp_path) as site, elsewhere() as evil, driven(tmp_path / "profile") as browser:
        tab = browser.tab()
        tab.go(site.url)
        log_in(tab, "alice", "builder")
        shows(tab, "message", "That was not right.")
        log_in(tab, "alice", "wonderland")
        shows(tab, "user", "alice")
        shows(tab, "state", "live")
        shows(tab, "online", "alice")
        tab.wait_for("/^\\d\\d:\\d\\d:\\d\\d$/.test(document.getElementById('time').textContent)")
        port = int(tab.evaluate("document.querySelector('main').dataset.port"))
        assert dial(tab, port) == "open"
        # No script can read the cookie.
        assert tab.evaluate("document.cookie") == ""
        (cookie,) = tab.call("Network.getCookies", urls=[site.url])["cookies"]
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("session", True, "Lax")

        # A stranger's page: the browser sends the cookie for it, and only the Origin tells.
        stranger = browser.tab()
        stranger.go(evil)
        assert dial(stranger, port) == 1006
        assert re.search(rf"refused \S+ with 403: CookieAuth: origin '{evil[:-1]}'", site.log)
        sent = ("Cookie", f"session={cookie['value']}")
        ours = ("Origin", site.url[:-1])
        assert status_of(port, sent, ours) == 101
        assert status_of(port, sent) == 403
        assert status_of(port, ours) == 403

        # Logging out ends every tab of the login, and the cookie, for those who have kept it.
        second = browser.tab()
        second.go(site.url)
        shows(second, "state", "live")
        second.evaluate("document.querySelector('form button').click()")
        shows(tab, "state", "logged out")
        second.wait_for("document.title === 'Log in'")
        assert status_of(port, sent, ours) == 403
        assert "alice is gone: REVOKED" in site.log
        tab.go(site.url)
        assert tab.evaluate("document.title") == "Log in"
        assert cookie["value"] not in site.log


def test_login_expires(tmp_path: Path) -> None:
    with example(tmp_path, "--seconds", "3") as site, driven(tmp_path / "profile") as browser:
        tab = browser.tab()
        tab.go(site.url)
        log_in(tab, "bob", "builder")
        shows(tab, "user", "bob")
        shows(tab, "state", "credential expired")
        assert "bob is gone: EXPIRED" in site.log
        tab.go(site.url)
        assert tab.evaluate("document.title") == "Log in"
