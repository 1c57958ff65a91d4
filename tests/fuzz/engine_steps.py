"""Fuzz target of the engine feed: answers of the plugin with their data changed or cut."""

from __future__ import annotations

import json
import math

from hypothesis import strategies as st

from gateway.upstream.vllm.steps_feed import BadFeed, parse_steps
from moegate.vllm_plugin.feed import ExpertStep, Feed, FinishedRequest, Signature, Step
from scheduler.engine_steps import EngineSteps, ExpertSteps
from scheduler.step_time.expert_law import ExpertCounts
from scheduler.step_time.expert_loads import ExpertLoads
from scheduler.step_time.single_steps import windows_of
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.fuzz.mutations import changed, dumped

NOW_S = 10_000.0
"""Above the age at which a step is too old, so that none ended before the clock began."""


def written() -> bytes:
    """An answer with a step of each sort and a finished request."""
    feed = Feed()
    for sequences, period_s in ((4, 0.02), (300, 0.05), (0, None)):
        feed.add(
            Step(
                engine=0,
                at_s=1.0,
                prefill_requests=1,
                prefill_tokens=100,
                prompt_tokens=120,
                decode_requests=sequences,
                decode_tokens=2 * sequences,
                output_tokens=sequences,
                elapsed_s=0.02,
                period_s=period_s,
                dummy=False,
                running=5,
                waiting=0,
                kv_usage=0.5,
                preemptions=0,
            )
        )
    feed.add(FinishedRequest(0, 1.0, "chatcmpl-a", "stop", 9, 0, 4, 0, 0.1, 0.2, 0.3, 0.1))
    feed.moe = {"experts": 16, "experts_per_token": 4, "layers": 2}
    for tokens, distinct in ((1, 4.0), (4, 9.5), (900, 16.0)):
        for _ in range(10):
            feed.add(ExpertStep(0, 1.0, tokens, 0, distinct, [2.0 * tokens, 2.0 * tokens]))
    feed.add(Signature(0, "chatcmpl-a", 12, [[1, 2], [3]]))
    return feed.answer([])


@st.composite
def feed_answers(draw: st.DrawFn) -> bytes:
    """The answer with its data changed, or its bytes cut."""
    answer = json.loads(written())
    answer["now_s"] = 2.0
    data = dumped(draw(changed(answer)))
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


def check_feed(text: bytes) -> None:
    """Steps that can be fitted, or BadFeed; the fit stays finite and positive."""
    try:
        answer = parse_steps(text, NOW_S)
    except BadFeed as error:
        str(error).encode()
        return
    assert all(0 <= step.at_s <= NOW_S for step in answer.steps)
    event = EngineSteps(placement="a", at_s=NOW_S, steps=answer.steps, whole=answer.processes == 1)
    fit = StepFit(QWEN3_30B_H100)
    for _ in range(3):
        fit.observe_steps(windows_of(event, kv_capacity_tokens=100_000, from_s=0.0))
    if answer.experts is not None:
        check_experts(answer.experts, fit)
    step_s = fit.model.decode_step_s(4, 1000)
    assert math.isfinite(step_s)
    assert step_s >= 0.0


def check_experts(told: ExpertSteps, fit: StepFit) -> None:
    """A law within its bounds, and a load of at least the mean."""
    counts, loads = ExpertCounts(told.experts, told.experts_per_token), ExpertLoads()
    if counts.observe(told.steps) and counts.law is not None:
        touched = [counts.law.touched(tokens) for tokens in (1, 2, 7, 40, 1000)]
        assert touched == sorted(touched)
        assert all(-1e-6 <= share <= 1.0 + 1e-6 for share in touched)
        assert counts.law.tokens_at(0.95) >= 0.0
        fit.use_law(counts.law)
    loads.observe(told.steps)
    assert loads.imbalance is None or loads.imbalance >= 1.0 - 1e-9
