"""Prompt prefixes by placement, from the scheduler's own starts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.prefix import prefix_index
from scheduler.prefix.prefix_index import FIRST_BLOCKS, PrefixIndex


def test_a_placement_has_the_prefixes_that_were_sent_there() -> None:
    index = PrefixIndex(3)
    index.add(0, [1, 2, 3], None)
    index.add(2, [1, 9], None)
    assert index.hit_blocks([1, 2, 3, 4]).tolist() == [3.0, 0.0, 1.0]
    index.forget(0)
    assert index.hit_blocks([1, 2, 3, 4]).tolist() == [0.0, 0.0, 1.0]
    assert len(index) == 2


def test_the_least_recently_used_and_the_deepest_blocks_go_first() -> None:
    index = PrefixIndex(1)
    index.add(0, [1, 2], 4)
    index.add(0, [11, 12], 4)
    index.add(0, [1, 2], 4)
    index.add(0, [21], 4)
    assert index.hit_blocks([1, 2]).tolist() == [2.0]
    assert index.hit_blocks([11, 12]).tolist() == [1.0], "12 is deeper than 11"


def test_a_prompt_longer_than_the_cache_keeps_its_beginning() -> None:
    index = PrefixIndex(1)
    index.add(0, [1, 2, 3, 4], 2)
    assert index.hit_blocks([1, 2, 3, 4]).tolist() == [2.0]


def test_what_is_remembered_is_bounded(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    unknown = PrefixIndex(1)
    unknown.add(0, range(2 * FIRST_BLOCKS), None)
    assert len(unknown) == FIRST_BLOCKS
    monkeypatch.setattr(prefix_index, "MOST_BLOCKS", 10)
    shared = PrefixIndex(2)
    shared.add(0, range(100), 1000)
    assert len(shared) == 5, "each of two placements has half of the blocks"


CHAINS = tuple(tuple(range(100 * chain, 100 * chain + 6)) for chain in range(3))


ADDED = st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(1, 6))
MOVED = st.builds(
    lambda order, count: order[:count], st.permutations((None, None, 0, 1, 2, 3)), st.integers(1, 6)
)


@given(st.lists(st.tuples(ADDED, st.none() | MOVED), max_size=30))
def test_what_stays_is_remembered_under_its_new_index(
    steps: list[tuple[tuple[int, int, int], list[int | None] | None]],
) -> None:
    index = PrefixIndex(4)
    held = [[0, 0, 0] for _ in range(4)]
    for (number, chain, blocks), moved in steps:
        placement = number % len(held)
        index.add(placement, CHAINS[chain][:blocks], None)
        held[placement][chain] = max(held[placement][chain], blocks)
        if moved is not None:
            previous = [i if i is not None and i < len(held) else None for i in moved]
            index.reindex(previous)
            held = [[0, 0, 0] if before is None else held[before] for before in previous]
        for row, blocks_of in enumerate(CHAINS):
            assert index.hit_blocks(blocks_of).tolist() == [of[row] for of in held]
    index.reindex(())
    assert not len(index)


def test_more_placements_have_less_memory_each(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(prefix_index, "MOST_BLOCKS", 10)
    index = PrefixIndex(1)
    index.add(0, range(10), 1000)
    index.reindex((None, 0))
    assert index.hit_blocks(range(10)).tolist() == [0.0, 5.0]
    assert len(index) == 5
