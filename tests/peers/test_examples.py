"""The chat and the service that computes, of examples/: over sockets, and their pages in a real browser.

And the page of `unlimitedws echo`, which is the first that one sees.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live import ping, readable
from raw import BINARY, TEXT, Close, RawClient

from .chromium import CHROMIUM, Tab, driven

ROOT = Path(__file__).resolve().parents[2]

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@contextmanager
def running(name: str, room: Path, *args: str, is_busy: bool = False) -> Iterator[str]:
    """Run a program on a port of its own, and return the address of its page, with which it ends its first line.

    Args:
        name: Its file, in examples/; or a module.
        room: A directory for what it says.
        args: "0", the port, where there are none.
        is_busy: It computes at the end, and is not waited for.
    """
    said = room / "example.log"
    program = [str(ROOT / "examples" / name)] if name.endswith(".py") else ["-m", name]
    command = [sys.executable, *program, *(args or ["0"])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with (
        said.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().rpartition(" ")[2]
            assert url.startswith("http://localhost:"), said.read_text()
            yield url
            if not is_busy:
                process.terminate()
                assert process.wait(20) == 0, said.read_text()
        finally:
            process.kill()
    assert said.read_text() == ""


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


def fill(tab: Tab, form: str, value: str) -> None:
    """Write into the first field of a form, and send it off."""
    tab.evaluate(
        f"""(value => {{
            const form = document.getElementById({json.dumps(form)});
            form.elements[0].value = value;
            form.requestSubmit();
        }})({json.dumps(value)})"""
    )


def shows(tab: Tab, name: str, text: str) -> None:
    tab.wait_for(f"document.getElementById({json.dumps(name)})?.textContent === {json.dumps(text)}")


# --- echo ---


@needs_chromium
def test_page_of_the_echo_server_in_a_browser(tmp_path: Path) -> None:
    with (
        running("unlimitedws", tmp_path, "echo", "--addr", ":0") as url,
        driven(tmp_path / "profile") as browser,
    ):
        tab = browser.tab()
        tab.go(url)
        shows(tab, "state", "connected")
        # Its own two.
        shows(tab, "count", "2")
        fill(tab, "form", "höllo")
        tab.wait_for("/^höllo[\\d.]+ ms$/.test(document.querySelector('#log li').textContent)")
        assert tab.evaluate("document.querySelectorAll('#log .wrong').length") == 0


# --- chat ---


def enter(port: int, name: str) -> RawClient:
    return RawClient(port, path=f"/?name={name}")


def news(client: RawClient) -> Any:
    return json.loads(client.recv_message())


def test_chat_tells_all_who_is_in_and_what_is_said(tmp_path: Path) -> None:
    with running("chat/chat.py", tmp_path) as url, enter(port_of(url), "ann") as ann:
        port = port_of(url)
        assert (news(ann), news(ann)) == ({"said": []}, {"members": ["ann"]})
        with enter(port, "b%C3%B6b") as bob:
            assert (news(bob), news(bob)) == ({"said": []}, {"members": ["ann", "böb"]})
            assert news(ann) == {"members": ["ann", "böb"]}
            bob.send_frame(TEXT, "höllo")
            line = {"name": "böb", "text": "höllo"}
            assert news(bob) == news(ann) == {"said": [line]}
            # Who comes later, without a name or with one that is too long.
            for query, name in (("%20", "somebody"), ("x" * 30, "x" * 20)):
                with enter(port, query) as late:
                    members = sorted(["ann", "böb", name])
                    assert (news(late), news(late)) == ({"said": [line]}, {"members": members})
                    assert news(ann) == news(bob) == {"members": members}
                assert news(ann) == news(bob) == {"members": ["ann", "böb"]}
            bob.send_frame(BINARY, b"\0")
            assert bob.recv_close() == Close(1003, "text only")
            bob.send_close(1003)
            assert news(ann) == {"members": ["ann"]}


@needs_chromium
def test_chat_in_a_browser(tmp_path: Path) -> None:
    with running("chat/chat.py", tmp_path) as url, driven(tmp_path / "profile") as browser:
        ann, bob = browser.tab(), browser.tab()
        ann.go(url)
        fill(ann, "enter", "ann")
        shows(ann, "members", "ann")
        fill(ann, "say", "before he came")
        shows(ann, "log", "annbefore he came")
        bob.go(url)
        fill(bob, "enter", "bob")
        shows(bob, "log", "annbefore he came")
        shows(ann, "members", "ann, bob")
        # What others write is text, whatever it looks like.
        fill(bob, "say", "<img src=x onerror=alert(1)>")
        shows(ann, "log", "annbefore he camebob<img src=x onerror=alert(1)>")
        assert ann.evaluate("document.querySelectorAll('#log img').length") == 0
        # The connection is lost: the page comes back by itself, and the room has not forgotten.
        ann.evaluate("socket.close()")
        shows(ann, "state", "connecting again")
        shows(ann, "state", "live")
        shows(ann, "log", "annbefore he camebob<img src=x onerror=alert(1)>")
        # A page that one goes away from may be kept for coming back, with its socket.
        bob.evaluate("socket.onclose = null; socket.close()")
        shows(ann, "members", "ann")


# --- a service that computes ---


def test_service_that_computes_answers(tmp_path: Path) -> None:
    with running("queens/queens.py", tmp_path) as url, RawClient(port_of(url)) as client:
        for n, ways in ((1, 1), (4, 2), (8, 92)):
            client.send_frame(TEXT, str(n))
            assert client.recv_message() == f"{n} queens: computing"
            assert client.recv_message() == f"{n} queens: {ways} ways"
        for wrong in ("0", "15", "queens"):
            client.send_frame(TEXT, wrong)
            assert client.recv_message() == "a number from 1 to 14, please"


def test_service_that_computes_lets_its_sockets_live(tmp_path: Path) -> None:
    with running("queens/queens.py", tmp_path, is_busy=True) as url, RawClient(port_of(url)) as busy:
        # Far longer than all that follows.
        busy.send_frame(TEXT, "14")
        assert busy.recv_message() == "14 queens: computing"
        for _ in range(10):
            ping(busy)
            with RawClient(port_of(url)) as newcomer:
                ping(newcomer)
        with RawClient(port_of(url)) as other:
            other.send_frame(TEXT, "4")
            assert other.recv_message() == "4 queens: computing"
            assert other.recv_message() == "4 queens: 2 ways"
        assert not readable(busy.sock), "it was to compute all the time"


@needs_chromium
def test_service_that_computes_in_a_browser(tmp_path: Path) -> None:
    with running("queens/queens.py", tmp_path, is_busy=True) as url, driven(tmp_path / "profile") as browser:
        tab = browser.tab()
        tab.go(url)
        shows(tab, "answer", "ready")
        fill(tab, "form", "8")
        shows(tab, "answer", "8 queens: 92 ways")
        fill(tab, "form", "14")
        tab.wait_for("Number(document.getElementById('count').textContent) >= 5")
        shows(tab, "answer", "14 queens: computing")
