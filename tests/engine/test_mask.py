"""Masking against the byte loop of RFC 6455, section 5.3."""

import random

import pytest
from uws_shims import mask_shim

KEY = bytes([0x37, 0xFA, 0x21, 0x3D])
GUARD = 0xA5
LENGTHS = range(257)


def naive(data: bytes, key: bytes, phase: int) -> bytes:
    return bytes(byte ^ key[(phase + i) % 4] for i, byte in enumerate(data))


DATA = random.Random(1).randbytes(1 << 13)
EXPECTED = [naive(DATA, KEY, phase) for phase in range(4)]


class Memory:
    """A buffer whose byte 0 stands on a cache line, with a guard around what is used of it."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray([GUARD]) * (size + 192)
        self.base = 64 - mask_shim.misalignment(self.bytes) + 64

    def put(self, at: int, data: bytes) -> int:
        self.bytes[self.base + at : self.base + at + len(data)] = data
        return self.base + at

    def check_and_clear(self, at: int, expected: bytes) -> None:
        at += self.base
        end = at + len(expected)
        assert self.bytes[at:end] == expected
        assert self.bytes[at - 64 : at] == bytes([GUARD]) * 64
        assert self.bytes[end : end + 64] == bytes([GUARD]) * 64
        self.bytes[at:end] = bytes([GUARD]) * len(expected)


@pytest.mark.parametrize("phase", range(4))
def test_in_place_over_all_lengths_and_alignments(phase: int) -> None:
    memory = Memory(512)
    for alignment in range(64):
        for length in LENGTHS:
            at = memory.put(alignment, DATA[:length])
            mask_shim.apply(memory.bytes, at, length, KEY, phase)
            memory.check_and_clear(alignment, EXPECTED[phase][:length])


@pytest.mark.parametrize("phase", range(4))
def test_copy_over_all_lengths_and_alignments_of_both_ends(phase: int) -> None:
    src, dst = Memory(512), Memory(512)
    for alignment in range(64):
        other = alignment * 37 % 64
        for length in LENGTHS:
            at = src.put(other, DATA[:length])
            mask_shim.copy(dst.bytes, dst.base + alignment, src.bytes, at, length, KEY, phase)
            dst.check_and_clear(alignment, EXPECTED[phase][:length])
            src.check_and_clear(other, DATA[:length])


@pytest.mark.parametrize("phase", range(4))
def test_kernel_for_machines_without_avx2(phase: int) -> None:
    src, dst = Memory(512), Memory(512)
    for alignment in range(64):
        for length in range(33, 257):
            at = src.put(alignment, DATA[:length])
            mask_shim.narrow(dst.bytes, dst.base + 63 - alignment, src.bytes, at, length, KEY, phase)
            dst.check_and_clear(63 - alignment, EXPECTED[phase][:length])
            mask_shim.narrow(src.bytes, at, src.bytes, at, length, KEY, phase)
            src.check_and_clear(alignment, EXPECTED[phase][:length])


def test_copy_onto_itself_is_in_place() -> None:
    memory = Memory(512)
    for length in LENGTHS:
        for phase in range(4):
            at = memory.put(length % 64, DATA[:length])
            mask_shim.copy(memory.bytes, at, memory.bytes, at, length, KEY, phase)
            memory.check_and_clear(length % 64, EXPECTED[phase][:length])


@pytest.mark.parametrize("length", [1000, 4095, 4096, 4097, 8192])
def test_long_payloads(length: int) -> None:
    memory = Memory(length + 64)
    for alignment in (0, 1, 6, 14, 31, 33, 63):
        at = memory.put(alignment, DATA[:length])
        mask_shim.apply(memory.bytes, at, length, KEY, 0)
        memory.check_and_clear(alignment, EXPECTED[0][:length])


def test_payload_in_pieces_is_masked_as_a_whole() -> None:
    rng = random.Random(2)
    for _ in range(300):
        length = rng.randrange(1, 600)
        key = rng.randbytes(4)
        buffer = bytearray(DATA[:length])
        at = 0
        while at < length:
            piece = min(rng.choice([1, 2, 3, 5, 8, 31, 32, 33, 64, 200]), length - at)
            mask_shim.apply(buffer, at, piece, key, at)
            at += piece
        assert buffer == naive(DATA[:length], key, 0)


def test_phase_counts_modulo_four_up_to_the_largest_payload() -> None:
    for phase in (4, 7, (1 << 32) + 1, (1 << 63) + 2, (1 << 64) - 1):
        buffer = bytearray(DATA[:77])
        mask_shim.apply(buffer, 0, 77, KEY, phase)
        assert buffer == EXPECTED[phase % 4][:77]


def test_the_example_of_the_rfc() -> None:
    # Section 5.7: a masked "Hello".
    buffer = bytearray.fromhex("7f9f4d5158")
    mask_shim.apply(buffer, 0, 5, bytes.fromhex("37fa213d"), 0)
    assert buffer == b"Hello"
