"""Groups of one prior are compared by the mean of their fits, unless one really differs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.placement.pooled_fit import PooledFit
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel

BATCH, KV_TOKENS = 20, 40_000


def paced(factor: float) -> StepModel:
    return QWEN3_30B_H100.scaled(base=factor, experts=factor, sequences=factor, kv=factor)


def step_s(model: StepModel) -> float:
    return model.decode_step_s(BATCH, KV_TOKENS)


def used(groups: PooledFit, group: int, own: StepModel) -> float:
    return step_s(groups.model(group, own, BATCH, KV_TOKENS))


def test_chance_is_averaged_out() -> None:
    groups = PooledFit()
    fits = [paced(factor) for factor in (0.9, 1.0, 1.1)]
    for number, fit in enumerate(fits):
        groups.update(number, fit)
    mean_s = step_s(paced(1.0))
    assert [used(groups, i, fit) for i, fit in enumerate(fits)] == pytest.approx([mean_s] * 3)
    # One without a fit of its own is taken for like the others.
    assert used(groups, 9, paced(2.0)) == pytest.approx(mean_s)


def test_a_group_that_really_differs_counts_by_its_own_fit() -> None:
    groups = PooledFit()
    for number in range(9):
        groups.update(number, paced(1.0))
    groups.update(9, paced(2.0))
    assert used(groups, 9, paced(2.0)) == pytest.approx(step_s(paced(2.0)))
    groups.update(9, paced(1.45))
    between_s = used(groups, 9, paced(1.45))
    assert step_s(paced(1.05)) < between_s < step_s(paced(1.45))


def test_alone_or_out_of_use() -> None:
    groups = PooledFit()
    groups.update(0, paced(1.3))
    assert groups.model(0, paced(1.3), BATCH, KV_TOKENS) == paced(1.3)
    groups.update(1, paced(0.7))
    groups.update(1, None)
    assert len(groups) == 1
    assert groups.model(1, QWEN3_30B_H100, 0, 0) == QWEN3_30B_H100


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.floats(0.5, 2.0)), max_size=40))
def test_only_the_newest_fits_count(changes: list[tuple[int, float | None]]) -> None:
    groups, fresh = PooledFit(), PooledFit()
    for group, factor in changes:
        groups.update(group, None if factor is None else paced(factor))
    for group, factor in dict(changes).items():
        fresh.update(group, None if factor is None else paced(factor))
    assert len(groups) == len(fresh)
    own = paced(1.2)
    assert used(groups, 7, own) == pytest.approx(used(fresh, 7, own))
