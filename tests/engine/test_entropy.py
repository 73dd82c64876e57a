"""Keys and nonces: as many as are asked for, each byte handed out once."""

from __future__ import annotations

import os

import pytest
from uws_shims import entropy_shim
from uws_shims.entropy_shim import Entropy


def test_keys_differ() -> None:
    entropy = Entropy()
    # A birthday among 20,000 of 32 bits has odds of 1 in 21; fifty of them none that matter.
    keys = [entropy.key() for _ in range(20_000)]
    assert len(set(keys)) > len(keys) - 50


def test_every_bit_is_set_as_often_as_not() -> None:
    keys = [int.from_bytes(Entropy().key(), "little") for _ in range(4000)]
    for bit in range(32):
        # Eight standard deviations.
        assert abs(sum(key >> bit & 1 for key in keys) - 2000) < 8 * 32


def test_no_byte_is_handed_out_twice() -> None:
    entropy = Entropy()
    lengths = [1, 3, 16, 4, 4093, 4096, 4097, 10_000]
    pieces = [entropy.take(n) for n in lengths] + [entropy.key()]
    assert [len(piece) for piece in pieces] == [*lengths, 4]
    text = b"".join(pieces)
    windows = {text[i : i + 8] for i in range(len(text) - 7)}
    assert len(windows) == len(text) - 7


@pytest.mark.parametrize("left", range(1, 4))
def test_a_key_is_never_made_of_what_is_left_of_a_pool_that_is_too_short(left: int) -> None:
    entropy = Entropy()
    entropy.take(entropy_shim.BYTES - left)
    assert entropy.left == left
    entropy.key()
    assert entropy.left == entropy_shim.BYTES - 4


def test_a_child_that_forgets_has_other_bytes_than_its_parent() -> None:
    entropy = Entropy()
    entropy.key()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        entropy.forget()
        os.write(writing, entropy.take(32))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 32)
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 32 and theirs != entropy.take(32)
