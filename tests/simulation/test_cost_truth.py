"""Metered cost per request against the simulator's step-level truth: 10 % at p50, 25 % at p90.

The engine has 98,304 KV tokens and lengths like Azure's conversation trace; the meter knows no more
than a gateway would: starts, token counts every 50 ms, ends, and reports each second that lag.
"""

from __future__ import annotations

import pytest

from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.engine.physics import perturbed
from tests.simulation.metered_fleet import compare

P50, P90 = 0.10, 0.25


@pytest.mark.parametrize("per_s", [1.0, 6.0])
def test_alone_on_the_engine(per_s: float) -> None:
    seen = compare(seed=1, requests=400, per_s=per_s)
    assert seen.error(50) <= P50
    assert seen.error(90) <= P90
    assert seen.external_metered == 0.0


@pytest.mark.parametrize("per_s", [5.0, 7.0])
def test_with_30_percent_external_load(per_s: float) -> None:
    seen = compare(seed=1, requests=600, per_s=per_s, external_share=0.3)
    assert seen.error(50) <= P50
    assert seen.error(90) <= P90
    assert seen.external_metered == pytest.approx(seen.external_true, rel=0.15)


@pytest.mark.parametrize("per_s", [6.0, 12.0])
def test_with_a_queue_in_the_engine(per_s: float) -> None:
    seen = compare(seed=1, requests=400, per_s=per_s, max_num_seqs=16)
    assert seen.waited_in_engine > 0.8
    assert seen.error(50) <= P50
    assert seen.error(90) <= P90


@pytest.mark.parametrize("per_s", [7.0, 12.0])
def test_with_external_load_and_a_queue_in_the_engine(per_s: float) -> None:
    """At 12/s three times what the engine can do."""
    seen = compare(seed=1, requests=600, per_s=per_s, external_share=0.3, max_num_seqs=24)
    assert seen.waited_in_engine > 0.8
    assert seen.error(50) <= P50
    assert seen.error(90) <= P90


@pytest.mark.parametrize("external_share", [0.0, 0.3])
@pytest.mark.parametrize("num_gpu_blocks", [2048, 6144])
def test_with_the_kv_cache_exhausted(num_gpu_blocks: int, external_share: float) -> None:
    """The engine puts sequences back and computes their prompts again; no report says whose."""
    seen = compare(
        seed=3,
        requests=600,
        per_s=12.0,
        external_share=external_share,
        num_gpu_blocks=num_gpu_blocks,
    )
    assert seen.preemptions > 20
    assert seen.error(50) <= P50
    assert seen.error(90) <= P90


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(("per_s", "max_num_seqs"), [(6.0, 256), (12.0, 256), (12.0, 16)])
def test_with_an_engine_unlike_the_model(per_s: float, max_num_seqs: int, learns: bool) -> None:
    seen = compare(
        seed=1,
        requests=400,
        per_s=per_s,
        max_num_seqs=max_num_seqs,
        truth=perturbed(QWEN3_30B_H100, seed=3),
        learns=learns,
    )
    assert seen.error(50) <= P50
    assert seen.error(90) <= P90


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_with_prefills_far_from_the_model(factor: float) -> None:
    truth = QWEN3_30B_H100.scaled(prefill=factor)
    seen = compare(seed=1, requests=400, per_s=4.0, truth=truth)
    assert seen.error(50) <= P50
    assert seen.error(90) <= P90
