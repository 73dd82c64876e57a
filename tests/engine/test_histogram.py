"""Buckets of durations: those of an HDR histogram, and three figures right."""

from __future__ import annotations

import random

import pytest
from uws_shims import histogram_shim as shim

EDGES = sorted({value + d for k in range(42) for value in (1 << k, 3 << k) for d in (-1, 0, 1)})
NEAR = [value for value in [0, *EDGES] if 0 <= value <= shim.MAX_NS]


@pytest.mark.parametrize("ns", [*NEAR, 2047, 2048, 2049, shim.MAX_NS])
def test_a_duration_is_in_its_bucket_to_three_figures(ns: int) -> None:
    bucket = shim.index(ns)
    assert 0 <= bucket < shim.COUNTS
    assert shim.value(bucket) <= ns < shim.value(bucket + 1)
    assert (shim.value(bucket + 1) - shim.value(bucket)) * 1000 <= max(ns, 1000)


def test_buckets_are_in_order_and_none_is_left_out() -> None:
    values = [shim.value(i) for i in range(shim.index(shim.MAX_NS) + 1)]
    assert values == sorted(set(values))
    assert [shim.index(value) for value in values] == list(range(len(values)))


def test_the_buckets_are_those_of_an_hdr_histogram() -> None:
    hdr = pytest.importorskip("hdrh.histogram").HdrHistogram(1, shim.MAX_NS, 3)
    assert hdr.counts_len == shim.COUNTS
    for ns in [*NEAR, *(random.Random(7).randrange(1, shim.MAX_NS) for _ in range(2000))]:
        assert hdr.get_lowest_equivalent_value(ns) == shim.value(shim.index(ns))


def test_samples_are_counted_and_the_longest_is_exact() -> None:
    samples = [0, 1, 1, 5_000_001, 41_000, 41_001, 10**15]
    n, longest, counts = shim.counted(samples)
    assert n == len(samples) == sum(counts.values())
    assert longest == shim.MAX_NS
    assert counts[1] == 2 and counts[shim.index(41_000)] == 2
    assert shim.counted([5_000_001])[1] == 5_000_001
