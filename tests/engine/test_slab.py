"""The buffer allocator: contents survive, counters come back to zero, memory goes back to the kernel."""

import mmap
import random
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest
from uws_shims import slab_shim
from uws_shims.slab_shim import (
    ARENA_BYTES,
    CLASSES,
    KEEP_BYTES,
    MAX_CLASS_BYTES,
    MAX_EXTRA,
    MAX_LARGE,
    Slab,
    fill,
    holds,
)

SIZES = sorted([64 << i for i in range(11)] + [96 << i for i in range(10)])
# 64 KiB with many a kernel for ARM64.
PAGE = mmap.PAGESIZE
EMPTY = {"used_bytes": 0, "live_blocks": 0, "live_large": 0}


@pytest.fixture
def slab():
    slab = Slab()
    yield slab
    figures = slab.figures()
    assert {name: figures[name] for name in EMPTY} == EMPTY
    slab.trim()
    assert slab.figures()["held_bytes"] == 0
    assert slab.figures()["arenas"] == 0


def resident_kb() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise AssertionError("no Rss in smaps_rollup")


def test_a_new_slab_maps_nothing() -> None:
    assert Slab().figures() == EMPTY | {"held_bytes": 0, "arenas": 0, "maps": 0, "extra": 0}


def test_each_size_gets_the_smallest_class_that_holds_it(slab: Slab) -> None:
    assert len(SIZES) == CLASSES and SIZES[-1] == MAX_CLASS_BYTES
    wants = {0, 1, 63} | {size + d for size in SIZES for d in (-1, 0, 1)} - {MAX_CLASS_BYTES + 1}
    for want in sorted(wants):
        p, got = slab.take(want)
        assert got == next(size for size in SIZES if size >= want)
        assert p % 16 == 0
        slab.give(p)


def test_classes_are_at_most_twice_apart() -> None:
    assert all(b <= 2 * a for a, b in pairwise(SIZES))


@pytest.mark.parametrize("want", [MAX_CLASS_BYTES + 1, 100_000, ARENA_BYTES, 1 << 20, 5_000_000])
def test_large_blocks_have_a_mapping_of_their_own(slab: Slab, want: int) -> None:
    p, got = slab.take(want)
    assert want <= got < want + PAGE + 64 and p % 16 == 0
    assert slab.figures()["held_bytes"] == got + 64
    fill(p, got, 7)
    assert slab.figures()["live_large"] == 1 and slab.figures()["used_bytes"] == got
    slab.give(p)


def test_usable_size_need_not_be_asked_for(slab: Slab) -> None:
    for want in (10, 1 << 20):
        p = slab.take_quietly(want)
        fill(p, want, 1)
        slab.give(p)


def test_giving_nothing_is_nothing(slab: Slab) -> None:
    slab.give(0)


@pytest.mark.parametrize("size", SIZES)
def test_blocks_of_a_class_do_not_overlap_and_stay_within_their_arenas(slab: Slab, size: int) -> None:
    count = 2 * (ARENA_BYTES // size) + 3
    blocks = sorted(slab.take(size)[0] for _ in range(count))
    assert all(b - a >= size for a, b in pairwise(blocks))
    assert all(p % ARENA_BYTES + size <= ARENA_BYTES and p % ARENA_BYTES >= 64 for p in blocks)
    assert len({p // ARENA_BYTES for p in blocks}) == slab.figures()["arenas"]
    assert slab.figures()["used_bytes"] == count * size
    for p in blocks:
        slab.give(p)


@pytest.mark.parametrize("seed", range(6))
def test_random_use_keeps_every_content(slab: Slab, seed: int) -> None:
    rng = random.Random(seed)
    live: list[tuple[int, int, int]] = []
    for step in range(12_000):
        mark = step % 251
        # Breathes: more takes than gives for a while, then the other way round.
        growing = step // 2000 % 2 == 0
        action = rng.random()
        if not live or action < (0.55 if growing else 0.25):
            want = rng.choice([rng.randrange(200), rng.randrange(100_000), 1 << rng.randrange(18)])
            p, got = slab.take(want)
            fill(p, min(got, 300), mark)
            fill(p + got - 16, 16, mark)
            live.append((p, got, mark))
            continue
        i = rng.randrange(len(live))
        p, got, was = live[i]
        assert holds(p, min(got, 300), was) and holds(p + got - 16, 16, was)
        if action < 0.75:
            kept = min(got, 300)
            new = slab.grow(p, kept, rng.randrange(2 * got))
            assert new is not None
            p, new_got = new
            assert new_got >= got and holds(p, kept, was)
            fill(p, min(new_got, 300), mark)
            fill(p + new_got - 16, 16, mark)
            live[i] = (p, new_got, mark)
        else:
            slab.give(p)
            live[i] = live[-1]
            live.pop()
        figures = slab.figures()
        assert figures["live_blocks"] == len(live)
        assert figures["live_large"] == sum(got > MAX_CLASS_BYTES for _, got, _ in live)
        assert figures["used_bytes"] <= figures["held_bytes"]
    assert slab.figures()["used_bytes"] == sum(got for _, got, _ in live)
    for p, got, was in live:
        assert holds(p, min(got, 300), was) and holds(p + got - 16, 16, was)
        slab.give(p)


def test_growing_moves_the_content_through_every_class_and_beyond(slab: Slab) -> None:
    p, got = slab.grow(0, 0, 1)
    assert got == 64
    while got < 3_000_000:
        used = got
        fill(p, used, got % 251)
        new = slab.grow(p, used, got + 1)
        assert new is not None
        assert holds(new[0], used, got % 251)
        p, got = new
        assert slab.figures()["live_blocks"] == 1 and slab.figures()["used_bytes"] == got
    slab.give(p)


def test_growing_within_the_usable_size_moves_nothing(slab: Slab) -> None:
    for want in (100, 70_000):
        p, got = slab.take(want)
        maps = slab.figures()["maps"]
        assert slab.grow(p, want, got) == (p, got)
        assert slab.grow(p, 0, 0) == (p, got)
        assert slab.figures()["maps"] == maps
        slab.give(p)


def test_impossible_sizes_are_out_of_memory_and_leave_the_block_as_it_was(slab: Slab) -> None:
    for impossible in (2**64 - 1, 2**64 - 64, 2**62, 2**60):
        assert slab.take(impossible) is None
        for want in (100, 100_000):
            p, got = slab.take(want)
            fill(p, got, 9)
            before = slab.figures()
            assert slab.grow(p, got, impossible) is None
            assert slab.figures()["used_bytes"] == before["used_bytes"]
            assert slab.figures()["held_bytes"] == before["held_bytes"]
            assert holds(p, got, 9)
            slab.give(p)


def test_a_lone_block_does_not_map_and_unmap(slab: Slab) -> None:
    for want in (64, 5000, 65536, 1_000_000):
        slab.give(slab.take(want)[0])
        maps = slab.figures()["maps"]
        for _ in range(100):
            slab.give(slab.take(want)[0])
        assert slab.figures()["maps"] == maps


def test_a_message_that_grows_again_takes_the_mapping_that_was_kept(slab: Slab) -> None:
    def receive() -> None:
        p, got = slab.take(4096)
        while got < 1 << 20:
            p, got = slab.grow(p, got, got * 2)
        slab.give(p)

    receive()
    maps = slab.figures()["maps"]
    for _ in range(10):
        receive()
    assert slab.figures()["maps"] == maps


def test_a_small_taker_does_not_sit_on_a_much_larger_mapping(slab: Slab) -> None:
    slab.give(slab.take(KEEP_BYTES - 64)[0])
    p, got = slab.take(MAX_CLASS_BYTES + 1)
    assert got < 2 * MAX_CLASS_BYTES
    slab.give(p)


def test_no_mapping_beyond_the_cap_is_kept_and_only_so_many(slab: Slab) -> None:
    blocks = [slab.take(size)[0] for size in (KEEP_BYTES - 64, KEEP_BYTES, 50_000_000)]
    slab_shim.give_many(slab, blocks)
    assert slab.figures()["held_bytes"] == KEEP_BYTES
    slab_shim.give_many(slab, [slab.take(KEEP_BYTES - 64)[0] for _ in range(3 * MAX_LARGE)])
    assert slab.figures()["held_bytes"] == MAX_LARGE * KEEP_BYTES
    assert slab.figures()["extra"] == MAX_LARGE - 1
    give_back(slab)
    assert slab.figures()["held_bytes"] == KEEP_BYTES
    assert slab.figures()["extra"] == 0


def test_large_blocks_of_every_turn_are_mapped_once(slab: Slab) -> None:
    maps = None
    for turn in range(20):
        slab_shim.give_many(slab, slab_shim.take_many(slab, 300_000, MAX_LARGE))
        if turn % 3 == 2:
            slab.ease()
        maps = maps or slab.figures()["maps"]
    assert slab.figures()["maps"] == maps


def test_large_blocks_that_are_not_needed_any_more_go_back(slab: Slab) -> None:
    slab_shim.give_many(slab, slab_shim.take_many(slab, 300_000, MAX_LARGE))
    slab.ease()
    for _ in range(3):
        slab_shim.give_many(slab, slab_shim.take_many(slab, 300_000, 2))
        slab.ease()
        # Two in use, and one more in case.
        assert slab.figures()["extra"] == 2


def give_back(slab: Slab) -> None:
    """What was needed before the first call is known to be idle by the second."""
    slab.ease()
    slab.ease()


@pytest.mark.parametrize("order", ["as taken", "reverse", "random"])
def test_after_a_burst_one_arena_a_class_is_held_in_the_end(slab: Slab, order: str) -> None:
    rng = random.Random(5)
    blocks = [p for size in SIZES for p in slab_shim.take_many(slab, size, 20 * ARENA_BYTES // size // 4)]
    assert slab.figures()["arenas"] > 4 * CLASSES
    if order == "reverse":
        blocks.reverse()
    elif order == "random":
        rng.shuffle(blocks)
    slab_shim.give_many(slab, blocks)
    assert slab.figures()["extra"] == MAX_EXTRA
    assert slab.figures()["arenas"] == CLASSES + MAX_EXTRA
    give_back(slab)
    assert slab.figures()["extra"] == 0
    assert slab.figures()["arenas"] == CLASSES
    assert slab.figures()["held_bytes"] == CLASSES * ARENA_BYTES


def test_what_is_kept_for_nobody_has_no_pages(slab: Slab) -> None:
    before = resident_kb()
    blocks = [p for size in SIZES for p in slab_shim.take_many(slab, size, ARENA_BYTES // size - 1)]
    blocks += slab_shim.take_many(slab, 2_000_000, 1)
    slab_shim.give_many(slab, blocks)
    del blocks
    assert slab.is_tense and resident_kb() - before > 2_000
    slab.ease()
    # In use since the last call, for all it knows.
    assert slab.is_tense and resident_kb() - before > 2_000
    slab.ease()
    assert not slab.is_tense and slab.figures()["arenas"] == CLASSES
    # The pages with their heads, and those of the allocator of this test.
    assert resident_kb() - before < 600 + (CLASSES + 1) * PAGE // 1024
    # It is all there again for whoever wants it.
    maps = slab.figures()["maps"]
    slab_shim.give_many(slab, [p for size in SIZES for p in slab_shim.take_many(slab, size, ARENA_BYTES // size - 1)])
    slab_shim.give_many(slab, slab_shim.take_many(slab, 2_000_000, 1))
    assert slab.figures()["maps"] == maps and slab.is_tense


@pytest.mark.parametrize("size", [512, 16384])
def test_what_every_turn_takes_is_mapped_once(slab: Slab, size: int) -> None:
    count = 20 * (ARENA_BYTES // size)
    maps = None
    for turn in range(50):
        slab_shim.give_many(slab, slab_shim.take_many(slab, size, count))
        if turn % 7 == 6:
            slab.ease()
        maps = maps or slab.figures()["maps"]
    assert slab.figures()["maps"] == maps


def test_what_is_not_needed_any_more_goes_back_while_the_rest_stays(slab: Slab) -> None:
    per_arena = (ARENA_BYTES - 64) // 512
    slab_shim.give_many(slab, slab_shim.take_many(slab, 512, 20 * per_arena))
    assert slab.figures()["arenas"] == 20
    slab.ease()
    for _ in range(3):
        slab_shim.give_many(slab, slab_shim.take_many(slab, 512, 5 * per_arena))
        slab.ease()
        # Five in use, and one more in case.
        assert slab.figures()["arenas"] == 6
    blocks = slab_shim.take_many(slab, 512, 6 * per_arena)
    assert slab.figures()["extra"] == 0
    slab_shim.give_many(slab, blocks)
    assert slab.figures()["extra"] == 5


def test_large_mappings_that_are_kept_do_not_lift_the_bound_on_arenas(slab: Slab) -> None:
    large = slab_shim.take_many(slab, 300_000, MAX_LARGE)
    burst = slab_shim.take_many(slab, 512, 2 * MAX_EXTRA * ARENA_BYTES // 512)
    # One arena below the bound; the large ones pass it; and then more arenas come to be empty.
    most = MAX_EXTRA * ((ARENA_BYTES - 64) // 512)
    slab_shim.give_many(slab, burst[:most])
    slab_shim.give_many(slab, large)
    slab_shim.give_many(slab, burst[most:])
    assert slab.figures()["extra"] == MAX_EXTRA - 1 + MAX_LARGE - 1
    assert slab.figures()["arenas"] == MAX_EXTRA


def test_a_burst_leaves_the_resident_set_as_it_was(slab: Slab) -> None:
    before = resident_kb()
    blocks = slab_shim.take_many(slab, 1000, 60_000)
    rest = slab_shim.take_many(slab, 300_000, 20)
    during = resident_kb()
    assert during - before > 60_000
    slab_shim.give_many(slab, blocks)
    slab_shim.give_many(slab, rest)
    del blocks, rest
    assert resident_kb() - before < 5_000 + MAX_EXTRA * ARENA_BYTES // 1024
    give_back(slab)
    assert resident_kb() - before < 5_000


def test_arenas_are_filled_up_before_emptier_ones_are_used(slab: Slab) -> None:
    # Half of a burst stays, spread over all arenas; new blocks go into the holes, not into new arenas.
    blocks = slab_shim.take_many(slab, 1024, 4000)
    arenas = slab.figures()["arenas"]
    slab_shim.give_many(slab, blocks[::2])
    blocks = blocks[1::2] + slab_shim.take_many(slab, 1024, 1990)
    assert slab.figures()["arenas"] == arenas
    slab_shim.give_many(slab, blocks)


def test_memory_is_touched_only_as_far_as_it_is_used(slab: Slab) -> None:
    before = resident_kb()
    blocks = [slab.take(size)[0] for size in SIZES]
    blocks.append(slab.take(64 << 20)[0])
    assert slab.figures()["held_bytes"] > 64 << 20
    assert resident_kb() - before < 1000
    slab_shim.give_many(slab, blocks)


def test_destroying_unmaps_live_blocks() -> None:
    before = resident_kb()
    slab = Slab()
    slab_shim.take_many(slab, 64, 100_000)
    slab_shim.take_many(slab, 1 << 20, 20)
    slab_shim.take_many(slab, 65536, 7)
    assert resident_kb() - before > 20_000
    slab.destroy()
    assert resident_kb() - before < 6_000
    assert slab.figures()["held_bytes"] == 0
    slab.give(slab.take(10)[0])


def run(body: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    head = f"import sys; sys.path[:0] = [{str(root / 'src')!r}, {str(root / 'tests')!r}]\n"
    head += "from uws_shims.slab_shim import *\nfrom uws_shims import slab_shim\n"
    program = [sys.executable, "-c", head + textwrap.dedent(body)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def test_out_of_memory_is_said_and_survived() -> None:
    result = run(
        """
        import resource
        slab = Slab()
        keep, got = slab.take(60_000)
        fill(keep, got, 5)
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 64 * 2**20, resource.RLIM_INFINITY))
        blocks = slab_shim.take_many(slab, 30_000, 1_000_000)
        assert 1000 < len(blocks) < 3000, len(blocks)
        assert slab.take(70_000) is None
        assert slab.grow(keep, got, 2**20) is None and holds(keep, got, 5)
        held = slab.figures()["held_bytes"]
        slab_shim.give_many(slab, blocks)
        large, got = slab.take(1_000_000)
        fill(large, got, 6)
        assert slab.grow(large, got, 100_000_000) is None and holds(large, got, 6)
        slab.give(large)
        keep, got = slab.grow(keep, got if got < 60_000 else 60_000, 2**20)
        assert holds(keep, 60_000, 5)
        slab.give(keep)
        slab.trim()
        assert slab.figures()["held_bytes"] == slab.figures()["live_blocks"] == 0
        print("survived")
        """
    )
    assert (result.stdout, result.stderr, result.returncode) == ("survived\n", "", 0)


@pytest.mark.parametrize(
    "misuse",
    [
        "p = slab.take(100)[0]; slab.give(p); slab.give(p)",
        "p = slab.take(10**6)[0]; slab.give(p); slab.give(p)",
        "p = slab.take(100)[0]; Slab().give(p)",
        "p = slab.take(100)[0]; slab.give(p); slab.grow(p, 0, 1000)",
    ],
)
def test_a_block_that_is_not_live_or_not_ours_stops_the_process(misuse: str) -> None:
    assert run(f"slab = Slab()\n{misuse}\nprint('went on')").returncode == -6
