"""The policy laboratory: every policy ends every request, and a cell can be repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lab.loads import load_trace
from benchmarks.lab.rivals import RIVALS
from benchmarks.lab.runs import SCORED_SHARE, Run, capacity_per_s, play

COUNT = 150
SCORED = round(SCORED_SHARE * COUNT)


def run(policy: str, cap: int | None = None, trace: str = "azure-conv", load: float = 1.1) -> Run:
    return Run(fleet="qwen", trace=trace, load=load, policy=policy, seed=1, count=COUNT, cap=cap)


@pytest.mark.parametrize("cap", [None, 4])
@pytest.mark.parametrize("policy", ["ours", *RIVALS])
def test_every_policy_ends_every_request(policy: str, cap: int | None) -> None:
    found = play(run(policy, cap))
    assert found.requests == SCORED
    rejected = round(found.rejected * SCORED)
    assert 0 <= round(found.met * SCORED) <= SCORED - rejected
    assert found.usd > 0.0
    assert sum(found.reasons.values()) == rejected


def test_a_cell_gives_the_same_score_again() -> None:
    assert play(run("power-of-two")) == play(run("power-of-two"))


def test_affinity_finds_prefixes_that_others_miss() -> None:
    found = {
        name: play(run(name, trace="agents", load=0.3)).hit_rate
        for name in ("prefix-affinity", "round-robin")
    }
    assert found["prefix-affinity"] > found["round-robin"] + 0.1


def test_without_the_files_traces_are_generated(tmp_path: Path) -> None:
    assert not load_trace("azure-code", tmp_path).from_file
    (tmp_path / "AzureLLMInferenceTrace_code.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:17:04.0319600,3180,8\n"
    )
    load_trace.cache_clear()
    trace = load_trace("azure-code", tmp_path)
    assert trace.from_file
    assert [row.prompt_tokens for row in trace.rows] == [4808, 3180]


def test_capacity_is_what_is_completed_in_saturation() -> None:
    rate = capacity_per_s("qwen", "azure-conv", 1, None)
    below, above = (play(run("least-request", load=load)) for load in (0.3, 3.0))
    assert rate > 0.0
    assert below.met > above.met
