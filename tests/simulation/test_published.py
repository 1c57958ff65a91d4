"""The step model beside published measurements of real servers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.step_time.step_fit import StepFit, StepSource
from scheduler.step_time.step_model import StepModel
from simulation.catalog.gpus import GPUS, Architecture
from simulation.catalog.prior import Parallelism, prior
from simulation.planner.economics import usd_per_million
from simulation.planner.published import (
    TPOT_TABLES,
    UNSEEN_ROWS,
    TpotTable,
    fitted,
    left_out,
    predicted_throughput,
    prior_of,
)


def prior_misses() -> list[float]:
    return [
        table.tpot_ms(prior_of(table), clients) / tpot_ms - 1.0
        for table in TPOT_TABLES
        for clients, tpot_ms in table.points.items()
    ]


AMD_POINTS_MISS = 0.07
"""Of the fit of AMD's table, whose points lie on no smooth curve."""


def test_one_set_of_constants_per_architecture_predicts_every_table() -> None:
    misses = prior_misses()
    assert len(misses) == 38
    assert max(abs(miss) for miss in misses) <= 0.2


@pytest.mark.parametrize("table", TPOT_TABLES, ids=lambda table: table.name)
def test_every_point_after_the_fit(table: TpotTable) -> None:
    """Within 5 % of what was published, AMD's table apart."""
    amd = GPUS[table.gpu].architecture is Architecture.CDNA
    model = fitted(table, table.points).model
    for clients, tpot_ms in table.points.items():
        limit = AMD_POINTS_MISS if amd else 0.05
        assert table.tpot_ms(model, clients) == pytest.approx(tpot_ms, rel=limit), clients


@pytest.mark.parametrize("table", TPOT_TABLES, ids=lambda table: table.name)
def test_twice_the_batch_is_predicted_from_the_points_below(table: TpotTable) -> None:
    """The largest batch that the KV cache holds, from half of it and less."""
    held = [
        count for count in table.points if count < table.kv_tokens / table.lengths.resident_tokens
    ]
    *below, largest = held
    predicted_ms = table.tpot_ms(fitted(table, below).model, largest)
    assert predicted_ms == pytest.approx(table.points[largest], rel=0.05)


def test_clients_beyond_the_kv_cache_wait() -> None:
    """128 and 512 clients of a server that holds some 120 sequences have one TPOT."""
    table = next(one for one in TPOT_TABLES if one.name == "MiniMax-M2.5 FP8, 2 x B200")
    model = prior_of(table)
    assert table.tpot_ms(model, 512) == table.tpot_ms(model, 128) > table.tpot_ms(model, 64)
    assert table.points[512] == pytest.approx(table.points[128], rel=0.01)


@pytest.mark.parametrize("table", TPOT_TABLES, ids=lambda table: table.name)
def test_each_point_is_predicted_from_the_others(table: TpotTable) -> None:
    """The online fit itself, fed with the other points of the table."""
    for clients, tpot_ms in table.points.items():
        fit = left_out(table, clients)
        # A prior that is this near needs no fit.
        assert fit.source is StepSource.FIT or (fit.error or 1.0) < 0.02
        amd = GPUS[table.gpu].architecture is Architecture.CDNA
        limit = 0.12 if amd else 0.10
        assert table.tpot_ms(fit.model, clients) == pytest.approx(tpot_ms, rel=limit), clients


def test_the_term_of_distinct_experts_earns_its_place() -> None:
    """With a step time linear in the batch the same tables are missed by far more."""

    def worst(without_experts: bool) -> float:
        found = 0.0
        for table in TPOT_TABLES:
            for clients, tpot_ms in table.points.items():
                start = prior_of(table)
                if without_experts:
                    start = as_if_dense(start)
                fit = left_out(table, clients, start=start)
                found = max(found, abs(table.tpot_ms(fit.model, clients) / tpot_ms - 1.0))
        return found

    assert worst(without_experts=False) < 0.6 * worst(without_experts=True)


def as_if_dense(model: StepModel) -> StepModel:
    """All experts read in each step: no term grows with their number."""
    everything_s = model.expert_s * model.overlap * model.experts
    return replace(model, expert_s=0.0, base_s=model.base_s + everything_s)


def test_rows_that_no_constant_was_set_on() -> None:
    """What docs/step-model.md tells of them: all within 35 %."""
    for row in UNSEEN_ROWS:
        assert predicted_throughput(row) == pytest.approx(row.tokens_per_s, rel=0.35), row


def test_one_wait_for_the_host_explains_every_batch_without_async_scheduling() -> None:
    """One constant for four rows of 1 to 32 clients, which it brings from 70 % to 5 %."""
    rows = [row for row in UNSEEN_ROWS if not row.async_scheduling]
    assert [row.clients for row in rows] == [1, 8, 16, 32]
    for row in rows:
        assert predicted_throughput(row) == pytest.approx(row.tokens_per_s, rel=0.05), row
        without = predicted_throughput(replace(row, async_scheduling=True))
        assert without > 1.3 * row.tokens_per_s


@pytest.mark.parametrize(
    ("usd_per_gpu_hour", "tokens_per_s", "published"),
    [
        (1.41, 1174.5, 0.334),
        (1.95, 1790.7, 0.303),
        (1.95, 3879.3, 0.140),
        (1.30, 2985.6, 0.12),
        (1.41, 2453.9, 0.16),
        (1.95, 13_429.7, 0.04),
        (1.95, 1673.6, 0.32),
        (2.00, 22_282 / 8, 0.1995),  # SGLang, 96 x H100: its decode nodes alone
    ],
)
def test_published_dollars_per_million_tokens(
    usd_per_gpu_hour: float, tokens_per_s: float, published: float
) -> None:
    assert usd_per_million(usd_per_gpu_hour, tokens_per_s) == pytest.approx(published, abs=0.005)


def test_the_published_day_of_deepseek_closes() -> None:
    """Prefill and decode nodes pay for their own tokens; the parts are the bill (0.1 %)."""
    node_usd_per_hour = 8 * 2.0
    uncached_share = 1.0 - 342 / 608
    uncached = usd_per_million(node_usd_per_hour, 73_700 * uncached_share)
    output = usd_per_million(node_usd_per_hour, 14_800)
    assert uncached == pytest.approx(0.1378, abs=2e-4)
    assert output == pytest.approx(0.3003, abs=1e-4)
    parts = (608e9 * uncached_share * uncached + 168e9 * output) / 1e6
    assert parts == pytest.approx(226.75 * 24 * node_usd_per_hour, rel=1e-3)


def test_more_ranks_share_the_latent_cache() -> None:
    """Data-parallel attention avoids the repeated KV of tensor parallelism (LMSYS, May 2025)."""
    table = TPOT_TABLES[0]
    ranks = Parallelism(tensor=1, data=8, expert_parallel=True)
    spread = prior(table.model, GPUS["B200"], ranks)
    long_kv = 64 * 60_000
    assert spread.kv_token_s / spread.ranks < prior_of(table).kv_token_s / 4
    assert spread.decode_step_s(64, long_kv) < prior_of(table).decode_step_s(64, long_kv)


def test_a_fit_without_points_is_the_prior() -> None:
    table = TPOT_TABLES[0]
    assert StepFit(prior_of(table)).model == prior_of(table)
