"""Blocks by holder."""

from __future__ import annotations

from scheduler.prefix.holders import Holders


def test_each_holder_has_its_leading_blocks_up_to_the_first_gap() -> None:
    holders = Holders()
    for block in (10, 11, 12):
        holders.add(block, 0b001)
    for block in (10, 12):
        holders.add(block, 0b010)
    assert holders.leading([10, 11, 12, 13], 3).tolist() == [3.0, 1.0, 0.0]
    assert holders.leading([10, 11, 12], 3).tolist() == [3.0, 1.0, 0.0]
    assert holders.leading([11], 3).tolist() == [1.0, 0.0, 0.0]
    assert holders.leading([], 3).tolist() == [0.0, 0.0, 0.0]


def test_a_block_without_holder_is_not_kept() -> None:
    holders = Holders()
    holders.add(1, 0b01)
    holders.add(1, 0b10)
    holders.drop(1, 0b01)
    assert (len(holders), holders.leading([1], 2).tolist()) == (1, [0.0, 1.0])
    holders.drop(1, 0b10)
    holders.drop(1, 0b10)
    assert len(holders) == 0
