from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

import unlimitedws
from unlimitedws import Compression, Options
from unlimitedws.options import OptionKeywords
from unlimitedws.pool import MAX_WORKERS

INTS = [
    "backlog",
    "max_buffered_bytes",
    "max_connections",
    "max_fragments",
    "max_incomplete_total_bytes",
    "max_header_bytes",
    "max_header_fields",
    "max_inbox_bytes",
    "max_inbox_messages",
    "max_inbox_total_bytes",
    "max_line_bytes",
    "max_message_bytes",
]
TIMES = [
    "auth_timeout",
    "close_timeout",
    "cooldown_time",
    "drain_time",
    "handshake_timeout",
    "io_timeout",
    "ping_timeout",
    "request_timeout",
    "schedule_timeout",
    "worker_restart_window",
]
TIMES_OR_NONE = [
    "idle_timeout",
    "max_lifetime",
    "ping_interval",
    "send_timeout",
    "tcp_keepalive",
    "tcp_user_timeout",
]
SWITCHES = ["keep_request", "private_fds", "proxy_protocol", "raise_nofile_limit", "streaming", "tcp_nodelay"]


def test_every_option_is_among_those_that_are_tested_here() -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    others = {"compression", "max_pings_per_second", "max_stream_bytes", "request_workers", "pool", "page"}
    others |= {"high_water_bytes", "low_water_bytes", "max_buffered_total_bytes", "overflow"}
    others |= {"loops", "workers", "worker_restart_limit", "unix_mode", "trusted_proxies", "forwarded_header"}
    assert names == {*INTS, *TIMES, *TIMES_OR_NONE, *SWITCHES, *others}


def test_limits_are_those_of_the_first_day() -> None:
    options = Options()
    assert options.max_message_bytes == 1024 * 1024
    assert options.max_fragments == 1024
    assert options.max_header_bytes == 16 * 1024
    assert options.max_header_fields == 100
    assert options.max_line_bytes == 8 * 1024
    assert options.handshake_timeout == 10
    assert options.close_timeout == 10
    assert options.max_buffered_bytes == 1024 * 1024
    assert options.max_inbox_bytes == 1024 * 1024
    assert options.max_inbox_messages == 1024
    assert options.max_connections is None
    assert options.raise_nofile_limit
    assert not options.compression


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().backlog = 1  # type: ignore[misc]


def test_keywords_for_type_checkers_are_the_fields() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(Options)}
    keywords = {name: ref.__forward_arg__ for name, ref in OptionKeywords.__annotations__.items()}
    assert keywords == fields


@pytest.mark.parametrize("make", [unlimitedws.Server, unlimitedws.NewServer, unlimitedws.DefaultServer])
def test_every_server_takes_options_as_keywords(make: Any) -> None:
    server = make("127.0.0.1:0", max_message_bytes=77)
    assert server.options.max_message_bytes == 77
    server.stop()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("max_mesage_bytes", "did you mean 'max_message_bytes'"), ("colour", "there are max_message_bytes, ")],
)
def test_unknown_option_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=f"unknown option '{name}'; {hint}"):
        Options.of({name: 1})


def test_refused_option_leaves_no_socket_open(recwarn: pytest.WarningsRecorder) -> None:
    keywords: dict[str, Any] = {"colour": "red"}
    with pytest.raises(TypeError, match="colour"):
        unlimitedws.Server("127.0.0.1:0", **keywords)
    assert not recwarn.list


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_impossible_number_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: must be from .* not {value}"):
        Options.of({name: value})


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("value", ["1", 1.0, True])
def test_number_of_another_type_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name}: must be an int, not {value!r}"):
        Options.of({name: value})


@pytest.mark.parametrize("name", INTS)
def test_largest_number_is_taken(name: str) -> None:
    assert getattr(Options.of({name: 2**31 - 1}), name) == 2**31 - 1


@pytest.mark.parametrize(("name", "low", "high"), [("loops", 1, 64), ("workers", 1, 256)])
def test_loops_and_workers_are_a_handful(name: str, low: int, high: int) -> None:
    assert getattr(Options(), name) == 1
    for value in (low, high):
        assert getattr(Options.of({name: value}), name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"{name}: must be from {low} to {high}, not {value}"):
            Options.of({name: value})
    with pytest.raises(TypeError, match=f"{name}: must be an int, not True"):
        Options.of({name: True})


def test_no_worker_need_be_replaced() -> None:
    assert Options(worker_restart_limit=0).worker_restart_limit == 0
    with pytest.raises(ValueError, match="worker_restart_limit: must be from 0"):
        Options(worker_restart_limit=-1)


def test_length_of_a_stream_has_a_wider_range_and_may_have_no_limit() -> None:
    assert Options().max_stream_bytes == 1 << 30
    assert Options(max_stream_bytes=2**63 - 1).settings()["max_stream_bytes"] == 2**63 - 1
    assert Options(max_stream_bytes=None).settings()["max_stream_bytes"] == 2**63 - 1
    for value in (0, -1, 2**63):
        with pytest.raises(ValueError, match="max_stream_bytes: must be from 1 to"):
            Options(max_stream_bytes=value)
    with pytest.raises(TypeError, match="max_stream_bytes"):
        Options(max_stream_bytes=True)


@pytest.mark.parametrize("name", TIMES + TIMES_OR_NONE)
@pytest.mark.parametrize("value", [2, 2.0, timedelta(seconds=2)])
def test_time_is_seconds_or_timedelta(name: str, value: object) -> None:
    assert getattr(Options.of({name: value}), name) == 2.0


@pytest.mark.parametrize("name", TIMES + TIMES_OR_NONE)
@pytest.mark.parametrize(
    "value",
    [-0.001, float("nan"), float("inf"), pytest.param(10**400, id="10**400"), timedelta(days=-1), timedelta(days=2)],
)
def test_impossible_time_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}: must be from 0 to 86400 seconds"):
        Options.of({name: value})


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", ["1", None, True])
def test_time_of_another_type_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name}: must be seconds or a timedelta"):
        Options.of({name: value})


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"trusted_proxies": "10.0.0.0/8"}, TypeError, "trusted_proxies: must be a list of networks"),
        ({"trusted_proxies": [10]}, TypeError, "trusted_proxies: must be a list of networks"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, ValueError, "trusted_proxies: .*has host bits set"),
        ({"trusted_proxies": ["proxy.example"]}, ValueError, "trusted_proxies: .*'10.0.0.0/8', or 'unix'"),
        ({"trusted_proxies": ["10.0.0.1"] * 65}, ValueError, "trusted_proxies: at most 64 networks, not 65"),
        ({"forwarded_header": "X-Forwarded-For"}, ValueError, "forwarded_header: must be one of 'x-forwarded-for', 'f"),
        ({"proxy_protocol": True}, ValueError, "proxy_protocol: name the proxies in trusted_proxies"),
    ],
)
def test_impossible_proxies_are_refused_by_name(
    keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Options(**keywords)


def test_proxies_that_are_trusted_are_kept_as_they_were_then() -> None:
    networks = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1", "unix"]
    options = Options(trusted_proxies=networks, proxy_protocol=True)
    networks.clear()
    assert options.trusted_proxies == ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1", "unix")
    assert options.settings()["proxy_protocol"] == 1
    assert Options().settings()["proxy_protocol"] == 0


@pytest.mark.parametrize("value", [-1, 0o1000])
def test_impossible_mode_of_a_unix_socket_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=f"unix_mode: must be from 0 to 511, not {value}"):
        Options(unix_mode=value)


DEADLINES = ["handshake_timeout", "request_timeout", "auth_timeout", "close_timeout", "ping_timeout"]


@pytest.mark.parametrize("name", [*DEADLINES, *TIMES_OR_NONE])
def test_deadlines_cannot_be_nothing(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: must be more than 0"):
        Options.of({name: 0})


@pytest.mark.parametrize("name", SWITCHES)
def test_switch_is_true_or_false(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: must be True or False, not 1"):
        Options.of({name: 1})


def test_compression_is_a_switch_or_its_settings() -> None:
    assert Options().settings()["compression"] == 0
    for value in (True, Compression()):
        settings = Options(compression=value).settings()
        assert {name: settings[name] for name in settings if name.startswith("compression")} == {
            "compression": 1,
            "compression_level": 1,
            "compression_mem_level": 8,
            "compression_server_takeover": 0,
            "compression_client_takeover": 0,
            "compression_server_bits": 15,
            "compression_client_bits": 15,
            "compression_threshold": 1024,
        }
    for wrong in (1, 0, None, "yes", {}):
        with pytest.raises(TypeError, match="compression: must be True, False or a Compression"):
            Options(compression=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("level", -1, 9),
        ("mem_level", 1, 9),
        ("server_max_window_bits", 9, 15),
        ("client_max_window_bits", 9, 15),
        ("threshold", 0, 2**31 - 1),
    ],
)
def test_each_setting_of_compression_has_its_range(name: str, low: int, high: int) -> None:
    for value in (low, high):
        assert getattr(Compression(**{name: value}), name) == value  # type: ignore[arg-type]
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"compression.{name}: must be from {low} to {high}, not {value}"):
            Compression(**{name: value})  # type: ignore[arg-type]
    for wrong in (1.0, "9", True, None):
        with pytest.raises(TypeError, match=f"compression.{name}: must be an int"):
            Compression(**{name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["server_context_takeover", "client_context_takeover"])
def test_a_context_is_kept_or_not(name: str) -> None:
    with pytest.raises(TypeError, match=f"compression.{name}: must be True or False"):
        Compression(**{name: 1})  # type: ignore[arg-type]


def test_settings_of_compression_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Compression().level = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("pool", "error", "message"),
    [
        ((0, 1), ValueError, "no worker"),
        ((1, 0), ValueError, "no job in queue"),
        ((-1, 1), ValueError, "workers must be from 1"),
        ((1, -1), ValueError, "jobs must be from 1"),
        ((1.5, 1), TypeError, "workers must be an int"),
        ((1,), TypeError, "pool: must be"),
        (4, TypeError, "pool: must be"),
    ],
)
def test_impossible_pool_is_refused(pool: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Options(pool=pool)


def test_page_is_bytes() -> None:
    keywords: dict[str, Any] = {"page": "<p>text"}
    with pytest.raises(TypeError, match="page: must be bytes or None, not str"):
        Options(**keywords)
    assert Options(page=b"<p>bytes").page == b"<p>bytes"


def test_settings_are_integers_in_the_units_of_their_names() -> None:
    settings = Options(
        handshake_timeout=1.5,
        close_timeout=timedelta(milliseconds=250),
        schedule_timeout=0.001,
        cooldown_time=0.005,
        io_timeout=0,
        pool=(4, 9),
        max_connections=12,
    ).settings()
    assert all(type(value) is int for value in settings.values())
    assert settings["handshake_timeout_ms"] == 1500
    assert settings["close_timeout_ms"] == 250
    assert settings["schedule_timeout_us"] == 1000
    assert settings["cooldown_us"] == 5000
    assert settings["io_timeout_us"] == 0
    assert (settings["runners"], settings["jobs"]) == (4, 9)
    assert settings["max_connections"] == 12


def test_settings_without_a_pool_are_one_runner_and_without_a_limit_zero() -> None:
    settings = Options().settings()
    assert (settings["runners"], settings["jobs"]) == (1, 0)
    assert settings["max_connections"] == 0


def test_time_that_is_not_nothing_never_becomes_nothing() -> None:
    settings = Options(io_timeout=1e-9, close_timeout=1e-9).settings()
    assert settings["io_timeout_us"] == 1
    assert settings["close_timeout_ms"] == 1


def test_line_is_never_longer_than_the_head_it_is_in() -> None:
    assert Options(max_header_bytes=4096).settings()["max_line_bytes"] == 4096


@pytest.mark.parametrize("name", sorted({*TIMES_OR_NONE} - {"tcp_keepalive", "tcp_user_timeout"}))
def test_time_that_may_be_none_is_off_then_and_0_is_refused(name: str) -> None:
    assert Options.of({name: None}).settings()[f"{name}_ms"] == 0
    assert Options.of({name: 1.5}).settings()[f"{name}_ms"] == 1500
    assert getattr(Options.of({name: timedelta(seconds=2)}), name) == 2.0
    with pytest.raises(ValueError, match=rf"{name}.*None"):
        Options.of({name: 0})
    with pytest.raises(TypeError, match=name):
        Options.of({name: "1"})


def test_pings_are_limited_to_what_the_engine_counts() -> None:
    for good in (0, 1, 255):
        assert Options(max_pings_per_second=good).settings()["max_pings_per_second"] == good
    for bad in (-1, 256):
        with pytest.raises(ValueError, match="max_pings_per_second"):
            Options(max_pings_per_second=bad)


def test_request_workers_may_be_none_at_all_and_not_absurdly_many() -> None:
    assert Options().request_workers == 8
    assert Options(request_workers=0).request_workers == 0
    assert Options(request_workers=MAX_WORKERS).request_workers == MAX_WORKERS
    for bad in (-1, MAX_WORKERS + 1):
        with pytest.raises(ValueError, match="request_workers: must be"):
            Options(request_workers=bad)
    with pytest.raises(TypeError, match="request_workers: must be an int"):
        Options.of({"request_workers": True})


def test_marks_give_way_to_a_small_limit_and_what_was_chosen_is_refused() -> None:
    options = Options()
    assert (options.high_water_bytes, options.low_water_bytes) == (64 << 10, 16 << 10)
    options = Options(max_buffered_bytes=1000)
    assert (options.high_water_bytes, options.low_water_bytes) == (1000, 250)
    # As Server.set_pool does.
    assert dataclasses.replace(options, pool=(1, 1)).high_water_bytes == 1000
    options = Options(high_water_bytes=40_000, low_water_bytes=40_000)
    assert (options.high_water_bytes, options.low_water_bytes) == (40_000, 40_000)
    assert Options(high_water_bytes=0).low_water_bytes == 0
    with pytest.raises(ValueError, match="high_water_bytes: must be at most max_buffered_bytes, 1000, not 1001"):
        Options(max_buffered_bytes=1000, high_water_bytes=1001)
    with pytest.raises(ValueError, match="low_water_bytes: must be at most high_water_bytes, 1000, not 1001"):
        Options(high_water_bytes=1000, low_water_bytes=1001)
    for name in ("high_water_bytes", "low_water_bytes"):
        with pytest.raises(ValueError, match=f"{name}: must be from 0 to"):
            Options.of({name: -1})
        with pytest.raises(TypeError, match=f"{name}: must be an int"):
            Options.of({name: 1.5})


def test_what_waits_for_all_has_a_wider_range() -> None:
    assert Options().max_buffered_total_bytes == 256 << 20
    assert Options(max_buffered_total_bytes=2**63 - 1).settings()["max_buffered_total_bytes"] == 2**63 - 1
    for value in (0, -1, 2**63):
        with pytest.raises(ValueError, match="max_buffered_total_bytes: must be from 1 to"):
            Options(max_buffered_total_bytes=value)


def test_policy_of_a_full_queue_is_one_of_four() -> None:
    for i, policy in enumerate(("block", "close", "drop-newest", "drop-oldest")):
        assert Options.of({"overflow": policy}).settings()["overflow"] == i
    assert Options().overflow == "block"
    for wrong in ("drop", "", None, 1):
        with pytest.raises(ValueError, match="overflow: must be one of block, close, drop-newest, drop-oldest"):
            Options.of({"overflow": wrong})
