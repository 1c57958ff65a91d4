"""Prompt prefixes by placement, from the scheduler's own starts."""

from __future__ import annotations

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
