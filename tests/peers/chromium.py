"""A headless Chromium for the tests that need a real browser, and a hand that drives it.

Owns the process and its DevTools connection. Everything stays on this machine.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# A browser's first start on a busy machine.
TIMEOUT_S = 90.0


@contextmanager
def browser(url: str, profile: Path, *options: str) -> Iterator[None]:
    """Run a headless Chromium on a page.

    Args:
        url: The page.
        profile: A directory that does not exist yet; ``chromium.log`` is written beside it.
        options: More of Chromium's own.
    """
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        # A container has no user namespaces to sandbox with, and the page is our own.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        # No connection but ours.
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        # Without a proxy, whatever the environment says.
        "--no-proxy-server",
        f"--user-data-dir={profile}",
        *options,
        url,
    ]
    # What is preloaded, a sanitizer say, is for us; a browser has an allocator of its own.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    with (
        (profile.parent / "chromium.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


class Tab:
    """One tab, driven through the DevTools protocol.

    Args:
        client: A connection to the tab's DevTools.
    """

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self._numbers = itertools.count(1)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        number = next(self._numbers)
        self._client.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._client.recv(TIMEOUT_S))
            # Everything else is an event, and none was asked for.
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, expression: str) -> Any:
        """Evaluate an expression in the page; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true, whatever page that takes."""
        deadline = time.monotonic() + TIMEOUT_S
        last: Any = None
        while time.monotonic() < deadline:
            try:
                last = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
            except RuntimeError as exc:
                # The page it was asked in is gone: the next one is loading.
                last = exc
            else:
                if last["result"].get("value") is True:
                    return
            time.sleep(0.02)
        raise AssertionError(f"not within {TIMEOUT_S:g} s: {expression}; last: {last}")

    def go(self, url: str) -> None:
        """Load a page, and wait until it is there."""
        # It may be the one that is there already: that one is marked.
        self.evaluate("window.isOld = true")
        self.call("Page.navigate", url=url)
        here = f"location.href.startsWith({json.dumps(url)})"
        self.wait_for(f"!window.isOld && document.readyState === 'complete' && {here}")


class Browser:
    """A running Chromium; make one with `driven`."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._clients = ExitStack()

    def tab(self) -> Tab:
        """Open one more tab, empty."""
        request = urllib.request.Request(f"{self._url}/json/new?about:blank", method="PUT")
        # Without a proxy, whatever the environment says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT_S) as response:
            url = json.load(response)["webSocketDebuggerUrl"]
        client = connect(url, proxy=None, max_size=None, open_timeout=TIMEOUT_S)
        return Tab(self._clients.enter_context(client))

    def close(self) -> None:
        self._clients.close()


@contextmanager
def driven(profile: Path) -> Iterator[Browser]:
    """Run a headless Chromium that the test drives."""
    with browser("about:blank", profile, "--remote-debugging-port=0"):
        port = profile / "DevToolsActivePort"
        deadline = time.monotonic() + TIMEOUT_S
        while not (port.exists() and "\n" in port.read_text()):
            if time.monotonic() > deadline:
                log = (profile.parent / "chromium.log").read_text(errors="replace")
                raise AssertionError(f"chromium did not start within {TIMEOUT_S:g} s:\n{log[-2000:]}")
            time.sleep(0.02)
        one = Browser(int(port.read_text().splitlines()[0]))
        try:
            yield one
        finally:
            one.close()
