"""The table of shared byte strings against a dict, its hash against CPython's."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from uws_shims.intern_shim import Intern, siphash

SEED = 0x0123456789ABCDEF


def test_hash_is_siphash_1_3_as_cpython_computes_it() -> None:
    if sys.hash_info.algorithm != "siphash13":
        pytest.skip(f"this CPython hashes with {sys.hash_info.algorithm}")
    # PYTHONHASHSEED=0 is a key of zeros; the empty string and -1 are special there.
    texts = [bytes(range(7, 7 + n)) for n in range(sys.hash_info.cutoff + 1, 70)] + [b"\xff" * 40, b"/ws"]
    program = [sys.executable, "-c", f"print([hash(text) % 2**64 for text in {texts!r}])"]
    result = subprocess.run(program, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True)
    assert str([siphash(0, 0, text) for text in texts]) == result.stdout.strip()


def test_hash_depends_on_both_halves_of_the_key() -> None:
    assert len({siphash(a, b, b"/ws") for a in range(20) for b in range(20)}) == 400


def test_equal_strings_share_one_copy() -> None:
    table = Intern(SEED)
    first = table.take(b"/ws")
    assert first > 0
    assert table.take(bytearray(b"/ws")) == first
    other = table.take(b"/chat")
    assert other not in (0, first)
    assert table.get(first) == b"/ws" and table.get(other) == b"/chat"
    assert table.figures()["live"] == 2


def test_the_last_reference_frees_the_string() -> None:
    table = Intern(SEED)
    name = table.take(b"/ws")
    table.take(b"/ws")
    table.ref(name)
    for _ in range(2):
        table.give(name)
        assert table.get(name) == b"/ws"
    table.give(name)
    assert table.get(name) is None
    assert table.figures()["live"] == 0


def test_an_unknown_id_is_nobody() -> None:
    table = Intern(SEED)
    for name in (0, 1, 64, 65, 2**32 - 1):
        assert table.get(name) is None
    table.take(b"x")
    for name in (0, 2, 64, 65, 2**32 - 1):
        assert table.get(name) is None
    table.ref(0)
    table.give(0)


def test_strings_of_any_bytes_and_length() -> None:
    table = Intern(SEED)
    texts = [bytes(range(256))[:n] for n in range(257)] + [b"\0" * n for n in range(2, 40)] + [b"x" * 100_000]
    names = [table.take(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert [table.get(name) for name in names] == texts
    assert [table.take(text) for text in texts] == names
    for name in names * 2:
        table.give(name)
    assert table.figures()["live"] == 0


def test_a_length_beyond_32_bits_is_refused() -> None:
    table = Intern(SEED)
    assert table.take_huge() == 0
    assert table.figures()["live"] == 0


def test_ids_and_addresses_do_not_move_while_the_table_grows_and_shrinks() -> None:
    table = Intern(SEED)
    name = table.take(b"/ws")
    address = table.address(name)
    others = [table.take(b"%d" % i) for i in range(5000)]
    assert table.take(b"/ws") == name and table.address(name) == address
    for other in others:
        table.give(other)
    assert table.take(b"/ws") == name and table.address(name) == address


@pytest.mark.parametrize("seed", range(4))
def test_random_use_agrees_with_a_dict(seed: int) -> None:
    rng = random.Random(seed)
    table = Intern(rng.getrandbits(64))
    held: dict[int, list] = {}
    by_text: dict[bytes, int] = {}
    for step in range(30_000):
        growing = step // 5000 % 2 == 0
        if not held or rng.random() < (0.7 if growing else 0.2):
            text = b"/%d" % rng.randrange(3000)
            name = table.take(text)
            assert name > 0
            if text in by_text:
                assert by_text[text] == name
                held[name][1] += 1
            else:
                assert name not in held
                by_text[text] = name
                held[name] = [text, 1]
        else:
            name = rng.choice([next(iter(held)), next(reversed(held))])
            table.give(name)
            held[name][1] -= 1
            if held[name][1] == 0:
                del by_text[held.pop(name)[0]]
                assert table.get(name) is None
        if step % 1000 == 0:
            assert table.figures()["live"] == len(held)
            assert all(table.get(name) == text for name, (text, _) in held.items())
    for name, (text, refs) in held.items():
        assert table.get(name) == text
        for _ in range(refs):
            table.give(name)
    assert table.figures()["live"] == 0


@pytest.mark.parametrize("order", ["as taken", "reverse", "random"])
def test_memory_shrinks_back_after_a_burst(order: str) -> None:
    table = Intern(SEED)
    stays = table.take(b"/ws")
    small = table.figures()
    names = [table.take(b"/user/%d" % i) for i in range(50_000)]
    large = table.figures()
    assert large["held_bytes"] > 100 * small["held_bytes"] and large["probes"] > 50_000
    if order == "reverse":
        names.reverse()
    elif order == "random":
        random.Random(6).shuffle(names)
    for name in names:
        table.give(name)
    assert table.figures() == small
    assert table.get(stays) == b"/ws"
    table.give(stays)
    assert table.figures()["live"] == table.figures()["pages"] == 0
    assert table.figures()["held_bytes"] <= 16 * 8 + 8 * 8


def test_a_late_survivor_pins_little() -> None:
    table = Intern(SEED)
    names = [table.take(b"/user/%d" % i) for i in range(50_000)]
    for name in names[:-1]:
        table.give(name)
    # Its page of ids, and the directory up to it.
    assert table.figures()["held_bytes"] < 16_384
    assert table.get(names[-1]) == b"/user/49999"
    # New ids fill its page and then the lowest ones, not ever higher ones.
    pages = table.figures()["pages"]
    assert min(table.take(b"/%d" % i) for i in range(640)) == 1
    assert table.figures()["pages"] == pages


def test_a_string_at_the_edge_does_not_rebuild_the_table_each_time() -> None:
    table = Intern(SEED)
    names = [table.take(b"%d" % i) for i in range(12)]
    assert table.figures()["probes"] == 16
    extra = table.take(b"one more")
    assert table.figures()["probes"] == 32
    for _ in range(3):
        table.give(extra)
        assert table.figures()["probes"] == 32
        extra = table.take(b"one more")
    for name in [*names, extra]:
        table.give(name)


def test_destroying_frees_what_is_still_referenced() -> None:
    table = Intern(SEED)
    names = [table.take(b"%d" % i) for i in range(1000)]
    table.destroy()
    assert table.figures()["live"] == table.figures()["held_bytes"] == 0
    assert table.get(names[0]) is None
    assert table.get(table.take(b"again")) == b"again"


@pytest.mark.parametrize("misuse", ["table.give(name)", "table.ref(name)", "table.give(99)"])
def test_counting_a_string_that_is_gone_stops_the_process(misuse: str) -> None:
    root = Path(__file__).parents[2]
    program = f"""
import sys; sys.path[:0] = [{str(root / "src")!r}, {str(root / "tests")!r}]
from uws_shims.intern_shim import Intern
table = Intern(1); name = table.take(b"x"); table.give(name)
{misuse}
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert result.returncode == -6
