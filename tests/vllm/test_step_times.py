"""The step times of a real vLLM over concurrency, and the online fit of them."""

from __future__ import annotations

from statistics import median

from tests.vllm.launch import VllmProcess
from tests.vllm.step_times import CONCURRENCIES, measure

MOST_MISS = 0.3


async def test_the_fit_follows_a_real_engine(vllm_server: VllmProcess) -> None:
    """On a busy machine the engine's own times scatter: then the fit has to say that it is poor."""
    times = await measure(vllm_server)
    assert [point.concurrency for point in times.points] == list(CONCURRENCIES)
    assert len(times.windows) > 20
    # How many sequences shared a step is told by the counters, whatever else runs here.
    batches = [seen.batch / seen.concurrency for seen in times.windows]
    assert sum(0.75 < share < 1.15 for share in batches) > 0.6 * len(batches)
    assert times.error is not None
    missed = median(
        abs(point.fitted_tpot_ms / point.engine_tpot_ms - 1.0) for point in times.points
    )
    assert missed < MOST_MISS or times.error > MOST_MISS / 2
    # The stand-in prior has never seen this machine; the fit is not to be worse.
    assert times.source == "prior" or missed < median(
        abs(point.prior_tpot_ms / point.engine_tpot_ms - 1.0) for point in times.points
    )
