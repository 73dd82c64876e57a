"""What Prometheus gets to read, read as it reads it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from typing import Any

import pytest
from live import Live, each_mode, echo, serve
from raw import TEXT, RawClient

prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")

from prometheus_client.openmetrics import parser as openmetrics  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from unlimitedws import CloseCause, NewServer, metrics  # noqa: E402


def scrape(live: Live, path: str = "/metrics", accept: str = "") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{live.port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.headers["Content-Type"], response.read().decode()


def values(text: str) -> dict[str, float]:
    """Samples by name and labels, as ``name{label=value}``."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@each_mode
def test_figures_are_those_of_what_has_happened(pool: Any, no_fd_leaks: None) -> None:
    with serve(pool=pool, on_read=echo) as live:
        metrics.route(live.server)
        staying = live.connect()
        leaving = live.connect()
        for size in (5, 7):
            leaving.send_frame(TEXT, "x" * size)
            leaving.recv_message()
        leaving.close_cleanly()
        with RawClient(live.port, handshake=False) as refused:
            refused.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            refused.recv_until_eof()
        live.ended.get(timeout=10)
        content_type, text = scrape(live)
        assert content_type.startswith("text/plain; version=")
        got = values(text)
        assert got["unlimitedws_connections"] == 1
        assert got["unlimitedws_accepted_total"] == 4
        assert got["unlimitedws_opened_total"] == 2
        assert got["unlimitedws_handshakes_total{status=101}"] == 2
        assert got["unlimitedws_handshakes_total{status=505}"] == 1
        assert got["unlimitedws_closes_total{cause=peer}"] == 1
        assert {
            f"unlimitedws_closes_total{{cause={cause.name.lower()}}}" for cause in CloseCause
        } <= got.keys()
        assert got["unlimitedws_received_messages_total"] == got["unlimitedws_sent_messages_total"] == 2
        assert got["unlimitedws_sent_bytes_total"] == 12
        assert got["unlimitedws_threads"] >= 1
        # The scrapes themselves are counted from the second on.
        assert values(scrape(live)[1])["unlimitedws_handshakes_total{status=200}"] == 1
        staying.close_cleanly()


def test_every_figure_of_the_engine_is_exported() -> None:
    with serve() as live:
        metrics.route(live.server)
        exported = {key for key, _, _ in (*metrics._GAUGES, *metrics._COUNTERS)}
        engine = {key for key in live.server.counters() if not key.startswith(("answered_", "closed_by_"))}
        assert exported == engine


def test_the_memory_is_exported_by_part_and_by_purpose() -> None:
    with serve() as live:
        metrics.route(live.server)
        live.connect()
        got = values(scrape(live)[1])
        memory = live.server.memory()
        for part in memory.parts:
            assert f"unlimitedws_memory_bytes{{part={part}}}" in got
        for purpose in memory.purposes:
            assert f"unlimitedws_slab_bytes{{purpose={purpose}}}" in got
        assert got["unlimitedws_memory_bytes{part=table}"] == memory.table_bytes > 0


def test_names_follow_the_conventions() -> None:
    with serve() as live:
        metrics.route(live.server)
        live.connect().close_cleanly()
        families = {family.name: family for family in text_string_to_metric_families(scrape(live)[1])}
    for name, family in families.items():
        assert name.startswith("unlimitedws_")
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            assert sample.name == (f"{name}_total" if family.type == "counter" else name)


def test_scraper_that_asks_for_openmetrics_gets_it() -> None:
    with serve() as live:
        metrics.route(live.server)
        content_type, text = scrape(live, accept="application/openmetrics-text; version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")
        names = {family.name for family in openmetrics.text_string_to_metric_families(text)}
        assert {"unlimitedws_connections", "unlimitedws_handshakes"} <= names


@pytest.mark.parametrize("accept", ["text/plain;version=abc", "application/openmetrics-text;version=1..0"])
def test_scraper_that_asks_for_no_version_there_is_gets_the_usual_format(accept: str) -> None:
    with serve() as live:
        metrics.route(live.server)
        content_type, text = scrape(live, accept=accept)
        assert content_type.startswith("text/plain; version=0.0.4")
        assert "unlimitedws_connections" in values(text)


def test_global_registry_is_left_alone_unless_it_is_given() -> None:
    before = set(prometheus_client.REGISTRY._names_to_collectors)
    with serve() as live:
        registry = metrics.route(live.server, "/a")
        assert registry is not prometheus_client.REGISTRY
        assert set(prometheus_client.REGISTRY._names_to_collectors) == before
        own = prometheus_client.CollectorRegistry()
        prometheus_client.Counter("rooms", "Rooms.", registry=own).inc(3)
        assert metrics.route(live.server, "/b", registry=own, prefix="chat") is own
        got = values(scrape(live, "/b")[1])
        assert got["rooms_total"] == 3
        assert got["chat_connections"] == 0
        assert not any(name.startswith("unlimitedws_") for name in got)


def test_server_that_does_not_run_has_no_figures() -> None:
    server = NewServer("127.0.0.1:0")
    registry = metrics.route(server)
    server.stop()
    assert prometheus_client.generate_latest(registry) == b""


def test_server_that_is_started_again_begins_at_zero() -> None:
    with serve() as live:
        registry = metrics.route(live.server)
        live.connect().close_cleanly()
        live.server.stop()
        live.server.start()
        assert registry.get_sample_value("unlimitedws_opened_total") == 0


def test_library_does_without_prometheus_client() -> None:
    program = (
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "import unlimitedws\n"
        "try:\n"
        "    import unlimitedws.metrics\n"
        "except ModuleNotFoundError as exc:\n"
        "    assert 'pip install unlimitedws[metrics]' in str(exc), exc\n"
        "else:\n"
        "    raise AssertionError('imported')\n"
    )
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")


def test_figures_of_a_worker_say_whose_they_are() -> None:
    with serve() as live:
        live.connect()
        live.server._worker = 3
        registry = prometheus_client.CollectorRegistry()
        registry.register(metrics.Collector(live.server))
        assert registry.get_sample_value("unlimitedws_connections", {"worker": "3"}) == 1
        assert registry.get_sample_value("unlimitedws_opened_total", {"worker": "3"}) == 1
        by_status = {"worker": "3", "status": "101"}
        assert registry.get_sample_value("unlimitedws_handshakes_total", by_status) == 1
        assert registry.get_sample_value("unlimitedws_connections") is None
