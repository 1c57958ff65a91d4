"""Queries and quotes: when a query can succeed at all, and what a quote sums up."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs

from scheduler.contract import Objective
from scheduler.placement.quotes import BLOCK_TEXT, Block, Quote, QuoteBuffers
from tests.scheduler.placement.fleets_made import idle_fleet, query


@pytest.mark.parametrize(
    ("excluded", "possible"),
    [
        (None, True),
        ([Block.FREE, Block.TRIED], True),
        ([Block.NOT_SERVING, Block.PAUSED], True),
        ([Block.NOT_SERVING, Block.TRIED], False),
    ],
)
def test_a_query_is_possible_while_one_placement_may_take_it_later(
    excluded: list[Block] | None, possible: bool
) -> None:
    fleet, _ = idle_fleet(2, Objective.LATENCY)
    blocks = None if excluded is None else np.array(excluded, dtype=np.int8)
    assert structs.replace(query(fleet), excluded=blocks).possible is possible


def test_a_query_without_placements_is_not_possible() -> None:
    assert not query(idle_fleet(0, Objective.LATENCY)[0]).possible


def buffers() -> QuoteBuffers:
    made = QuoteBuffers(3, np.zeros(3, dtype=np.int8))
    made.wait_s[:] = (1.0, 0.0, 0.0)
    made.prefill_s[:] = (0.1, 0.3, 0.01)
    made.ttft_s[:] = (1.2, 0.5, 0.02)
    return made


def test_the_best_times_are_those_of_placements_in_service() -> None:
    quote = buffers().quote
    assert quote.best_s() == pytest.approx((0.01, 0.02))
    quote.blocked = np.array((Block.KV, Block.FREE, Block.NOT_SERVING), dtype=np.int8)
    assert quote.best_s() == pytest.approx((0.1, 0.2)), "the wait is not counted"
    quote.blocked = np.full(3, Block.NOT_SERVING, dtype=np.int8)
    assert quote.best_s() == (0.0, 0.0)


def test_every_array_of_a_quote_is_a_buffer_of_its_own() -> None:
    made = buffers()
    names = ["wait_s", "own_end_s", "prefill_s", "ttft_s", "tpot_s"]
    names += ["stall_added_s", "step_added_s", "violations_expected", "score"]
    assert len(names) == Quote.ROWS == len(made.quote.figures)
    for number, name in enumerate(names):
        getattr(made, name)[:] = number
    assert [getattr(made.quote, name).tolist() for name in names] == [
        [number] * 3 for number in range(len(names))
    ]
    assert made.own_stalls_s.tolist() == [[0.0] * 3, [1.0] * 3]


def test_the_marginal_cost_is_group_time_at_the_groups_rate() -> None:
    made = buffers()
    made.stall_added_s[:], made.step_added_s[:] = 0.5, 0.01
    made.quote.steps, made.quote.nano_usd_per_s = 100.0, np.array((10.0, 20.0, 0.0))
    assert made.quote.marginal_nano_usd == pytest.approx((15.0, 30.0, 0.0))


def test_every_block_has_a_text() -> None:
    assert BLOCK_TEXT.keys() == set(Block)
    assert len(set(BLOCK_TEXT.values())) == len(Block)
