"""The soak, small: servers of every kind live for some seconds, nothing is lost and nothing stays.

And whoever loses, changes or reorders messages is found: a soak that finds nothing has to be one that would have.
"""

from __future__ import annotations

import argparse
import collections
import random
import time
import zlib
from collections.abc import Callable
from typing import Any

import churn
import pytest
import soak
import soak_links
import soak_report
from live import serve, take
from raw import TIMEOUT
from soak_links import OPEN, Links

SECONDS = 4.0


def test_nothing_is_lost_and_nothing_stays_where_connections_of_every_kind_come_and_go() -> None:
    args = argparse.Namespace(minutes=SECONDS / 60, connections=300, churn=10.0, every=0.5, kinds=soak.KINDS, seed=7)
    result = soak.run(args)
    missed = [verdict for verdict in soak_report.verdicts(result) if verdict.met is False]
    assert not missed, result["told"]
    assert "too short to tell" in soak_report.render(result)
    # All ways to end were among them, and much was said.
    assert set(result["ends"]) == set(soak.ENDS)
    assert result["received"] > 300 and result["numbered"] > 100 and result["opened"] > 400


# --- what would be found ---


def live_until(links: Links, done: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not done():
        assert time.monotonic() < end, "the links did not get there"
        links.turn(time.monotonic() + 0.01)


def living(on_message: Callable[[Any, Any], None]) -> Links:
    """Have ten links live with a server, up to the first wrong that is done to them; or to 300 messages, and leave."""
    with serve(on_message=on_message, record_connects=False) as live:
        links = Links({"on_message": live.port}, 0.02, random.Random(3))
        for _ in range(10):
            links.open("on_message")
        live_until(links, lambda: bool(links.wrongs) or links.received >= 300)
        for link in links.alive():
            links.end(link, "close")
        live_until(links, lambda: bool(links.wrongs) or not links.links)
        links.close()
    return links


class Mischief:
    """An echo that does something else with every fifth message of a connection."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.count: collections.Counter[Any] = collections.Counter()
        self.kept: dict[Any, Any] = {}

    def __call__(self, conn: Any, message: str | bytes) -> None:
        self.count[conn] += 1
        if self.count[conn] % 5:
            conn.send(message)
            if conn in self.kept:
                conn.send(self.kept.pop(conn))
        elif self.what == "changed":
            conn.send(message[:-1] + ("?" if isinstance(message, str) else b"?"))
        elif self.what == "of the other kind":
            conn.send(message.encode() if isinstance(message, str) else message.decode())
        elif self.what == "late":
            self.kept[conn] = message
        elif self.what == "twice":
            conn.send(message)
            conn.send(message)
        elif self.what == "ended":
            conn.close(1000)
        else:
            assert self.what == "dropped"


@pytest.mark.parametrize("what", ["changed", "of the other kind", "late", "twice", "dropped"])
def test_a_message_that_is_not_the_right_one_is_found(what: str) -> None:
    assert living(Mischief(what)).wrongs["message"]


def test_a_connection_that_ends_without_reason_is_found() -> None:
    assert living(Mischief("ended")).wrongs["close"]


def test_replies_that_never_come_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_links, "PATIENCE_S", 0.0)
    with serve(on_message=lambda conn, message: None, record_connects=False) as live:
        links = Links({"on_message": live.port}, 0.02, random.Random(3))
        links.open("on_message")
        live_until(links, lambda: links.sent >= 3)
        links.look()
        assert links.wrongs["stuck"] and not links.links
        links.close()


def test_an_echo_that_makes_no_mischief_is_in_order() -> None:
    links = living(lambda conn, message: conn.send(message))
    assert not links.wrongs and links.ends == {"close": 10}


def numbered(number: int) -> str:
    text = f"{number:012d} and so on"
    return f"{zlib.crc32(text.encode()):08x} {text}"


@pytest.mark.parametrize("numbers", [(5, 6, 7, 8), (5, 6, 8, 9), (5, 6, 6, 7)], ids=["all", "one missing", "one twice"])
def test_of_numbered_messages_each_has_to_come_once(numbers: tuple[int, ...]) -> None:
    with serve() as live:
        links = Links({"thread": live.port}, 60.0, random.Random(3))
        links.open("thread")
        live_until(links, lambda: all(link.state == OPEN for link in links.alive()))
        conn = take(live.opened, "on_connect")
        for number in numbers:
            conn.send(numbered(number))
        live_until(links, lambda: bool(links.wrongs) or links.numbered == len(numbers))
        assert bool(links.wrongs["number"]) is (numbers != (5, 6, 7, 8))
        links.close()


def test_the_slope_is_that_of_the_samples_after_the_first_sixth() -> None:
    samples = [{"s": 60.0 * n, "rss_kib": 1000.0 + (500 * n if n < 10 else 5000 + 3 * n)} for n in range(61)]
    judged = soak_report.warm({"samples": samples})
    assert judged[0]["s"] == 600.0
    assert soak_report.slope(judged) == pytest.approx(3.0)


# --- what stays of those who have gone ---


def test_connections_of_every_kind_come_and_go_and_it_is_counted_what_stays(capsys: pytest.CaptureFixture[str]) -> None:
    args = churn.arguments(["--rounds", "3", "--seconds", "1", "--connections", "60", "--per-second", "300"])
    rests, wrongs = churn.run(args)
    assert not wrongs
    assert len(rests) == 3 and len(capsys.readouterr().out.splitlines()) == 3
    assert rests[-1].came > 600 and rests[-1].messages > 0
    for rest in rests:
        # Each is a part of the whole, and there.
        assert 0 < rest.main_heap < rest.resident
        assert 0 < rest.thread_heaps < rest.resident
        assert 0 < rest.slab < rest.resident
        assert rest.blocks > 10_000


def rest_with(came: int, blocks: int, threads: int = 8) -> churn.Rest:
    return churn.Rest(came, 0, threads, blocks, 0, 0, 0, 0, 0)


def test_what_stays_is_counted_between_rounds_that_have_as_many_threads() -> None:
    # The first round has what is made once, and a thread what is its own.
    rests = [rest_with(1000, 700), rest_with(2000, 900), rest_with(3000, 902), rest_with(4000, 950, threads=9)]
    assert churn.stayed_per_connection(rests) is None
    assert churn.stayed_per_connection(rests[:3]) == pytest.approx(0.002)
    rests.append(rest_with(5000, 1950, threads=9))
    assert churn.stayed_per_connection(rests) == pytest.approx(1.0)
