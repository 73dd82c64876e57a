"""What the fuzzer starts from, and what it has found, put to the targets without it; and targets that err are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlimitedws.address import Address

from . import targets
from .corpus import CORPUS, kept
from .targets import OPTIONS, TARGETS

HERE = Path(__file__).parent
each_target = pytest.mark.parametrize("name", TARGETS)


@each_target
def test_inputs_that_are_kept_pass(name: str) -> None:
    inputs = [*TARGETS[name].seeds(), *kept(name)]
    for data in inputs:
        try:
            TARGETS[name].run(data)
        except Exception as exc:
            raise AssertionError(f"{data.hex()}\n{data[OPTIONS.size :]!r}") from exc
    assert len(inputs) >= 9


@each_target
def test_seeds_are_what_the_fuzzer_takes(name: str) -> None:
    """libFuzzer cuts what is longer, and options are missing from what is shorter."""
    lengths = [len(seed) for seed in TARGETS[name].seeds()]
    assert min(lengths) >= OPTIONS.size
    short = sum(length <= TARGETS[name].max_bytes for length in lengths)
    assert short > 0.7 * len(lengths)


@each_target
def test_an_input_without_all_of_its_options_says_nothing(name: str) -> None:
    for length in range(OPTIONS.size):
        TARGETS[name].run(b"\x00" * length)


def test_dictionaries_and_corpora_belong_to_targets() -> None:
    named = {target.dictionary for target in TARGETS.values()} - {""}
    assert {path.stem for path in (HERE / "dictionaries").glob("*.dict")} == named
    assert {path.stem for path in CORPUS.glob("*.txt")} <= set(TARGETS)


def plus_one(value: int) -> int:
    return value + 1


def passes(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return (0, *value[1:])


def errs(name: str, where: Any, attribute: str, change: Callable[[Any], Any]) -> Any:
    return pytest.param(name, where, attribute, change, id=f"{name}-{attribute}")


@pytest.mark.parametrize(
    ("name", "where", "attribute", "change"),
    [
        errs("utf8", targets.fuzz_frames_shim, "utf8", plus_one),
        errs("frame", targets.fuzz_frames_shim, "frame", passes),
        errs("frame", targets.fuzz_frames_shim, "close", passes),
        errs("frame", targets.fuzz_frames_shim, "written_close", lambda value: value[:-1]),
        errs("proto", targets, "events", lambda value: value[1:]),
        errs("proto", targets.fuzz_frames_shim, "proto", passes),
        errs("client", targets, "events", lambda value: value[1:]),
        errs("client", targets.fuzz_frames_shim, "client", passes),
        errs("inflate", targets.fuzz_frames_shim, "inflate", passes),
        errs("inflate", targets.fuzz_frames_shim, "inflate_in_turn", lambda value: [(0, b"?")] * len(value)),
        errs("deflate", targets.fuzz_frames_shim, "deflate", lambda value: (b"", *value[1:])),
        errs("negotiate", targets.deflate_shim, "negotiate", lambda value: value and ("", (0, 0, 0, 0))),
        errs("upgrade", targets.fuzz_http_shim, "upgrade", passes),
        errs("upgrade", targets.proxy_shim, "collect", lambda value: value[:-1]),
        errs("opening", targets.fuzz_http_shim, "opening", passes),
        errs("proxy", targets.fuzz_http_shim, "proxy", lambda value: (1, value[1])),
        errs("http", targets.http_shim, "skip", plus_one),
        errs("http", targets.http_shim, "skip_value", plus_one),
        errs("http", targets.http_shim, "check_authority", lambda value: 0),
        errs("forwarded", targets, "leftmost_believed", lambda value: Address("192.0.2.250", 0)),
        errs("cookies", targets.Cookies, "get_all", lambda value: value[:1]),
    ],
)  # fmt: skip
def test_a_floor_that_errs_is_found_by_the_seeds(
    name: str, where: Any, attribute: str, change: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(where, attribute)
    monkeypatch.setattr(where, attribute, lambda *args, **kwargs: change(right(*args, **kwargs)))
    with pytest.raises((AssertionError, ValueError)):
        for seed in TARGETS[name].seeds():
            TARGETS[name].run(seed)


def test_what_is_said_differently_is_found() -> None:
    agreed = targets.fuzz_frames_shim.agreed
    assert agreed(b"abc", b"abc", b"abc") == b"abc"
    for said in ((b"abc", b"abd", b"abc"), (b"abc", b"abc", b"ab"), (b"", b"", b"c")):
        with pytest.raises(AssertionError, match="it says"):
            agreed(*said)


def test_inputs_are_cut_nowhere_everywhere_and_anywhere() -> None:
    sizes = targets.fuzz_frames_shim.sizes
    chopped = [sizes(seed, 300) for seed in range(50)]
    assert all(whole == [300] and bytewise == [1] * 300 for whole, bytewise, _ in chopped)
    assert all(sum(sizes) == 300 for _, _, sizes in chopped)
    assert len({tuple(sizes) for _, _, sizes in chopped}) == 50
    assert {1, 2, 3, 20, 100} <= {size for _, _, sizes in chopped for size in sizes}
