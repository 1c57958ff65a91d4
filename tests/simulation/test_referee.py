"""The referee: its step time, its queue and cache, and that every request ends in every trouble."""

from __future__ import annotations

import math

import pytest

from benchmarks.lab.fleets import FLEETS
from benchmarks.referee.cells import TROUBLES, RefereeRun, figures_of, play
from benchmarks.referee.engine import Figures, RefereeEngine, Resident, Size

FIGURES = Figures(
    experts=128, experts_per_token=8, fixed_s=3e-3, expert_s=1e-4, each_s=2e-5, memory_s=1e-8,
    token_s=2e-5, attention_s=1e-10,
)  # fmt: skip
SIZE = Size(kv_tokens=20_000, block_tokens=100, sequences=8, step_tokens=1000)


def engine(size: Size = SIZE) -> RefereeEngine:
    return RefereeEngine(FIGURES, size)


def experts_s(tokens: int) -> float:
    return 1e-4 * 128 * (1.0 - (1.0 - 8 / 128) ** tokens)


def test_a_step_pays_its_fixed_part_and_its_experts_once() -> None:
    one = engine()
    one.add(Resident("a", 300, 5))
    one.add(Resident("b", 200, 5))
    pairs = 300 * 150 + 200 * 100
    alone_s = 3e-3 + experts_s(500) + 2 * 2e-5 + 500 * 2e-5 + pairs * 1e-10
    assert one.begin() == pytest.approx(alone_s)
    step = one.finish(1.0)
    assert [resident.name for resident in step.first] == ["a", "b"]
    one.add(Resident("c", 100, 1))
    mixed_s = 3e-3 + experts_s(102) + 3 * 2e-5 + 502 * 1e-8 + 100 * 2e-5 + 100 * 50 * 1e-10
    assert one.begin() == pytest.approx(mixed_s)


def test_long_prompts_are_computed_in_chunks_beside_decodes() -> None:
    one = engine()
    one.add(Resident("short", 100, 50))
    one.begin()
    one.finish(0.1)
    one.add(Resident("long", 2500, 2))
    firsts = []
    for at in range(4):
        one.begin()
        firsts += [(at, resident.name) for resident in one.finish(float(at)).first]
    assert firsts == [(2, "long")], "999 tokens a step, beside one that decodes"
    assert one.running[0].generated == 5


def test_a_prompt_that_others_share_is_found() -> None:
    one = engine()
    for name in ("a", "b"):
        resident = Resident(name, 350, 1, content=("x", "y", "z"))
        one.add(resident)
        while one.has_work:
            one.begin()
            one.finish(0.0)
        assert resident.cached_tokens == (300 if name == "b" else 0)
    assert one.used_tokens == 0


def test_the_end_of_a_prompt_is_dropped_before_its_beginning_as_vllm_does() -> None:
    one = engine(Size(kv_tokens=1000, block_tokens=100, step_tokens=1000))
    kept, other = (tuple((name, at) for at in range(8)) for name in ("kept", "other"))
    found = []
    for content, tokens in ((kept, 810), (other, 410), (kept, 810)):
        resident = Resident("a", tokens, 1, content=content[: tokens // 100])
        one.add(resident)
        one.begin()
        one.finish(1.0)
        found.append(resident.cached_tokens)
    assert found == [0, 0, 500]


def test_what_does_not_fit_waits_or_is_computed_again() -> None:
    one = engine(Size(kv_tokens=1000, block_tokens=100, sequences=8, step_tokens=1000))
    residents = [Resident(name, 400, 300) for name in "abc"]
    for resident in residents:
        one.add(resident)
    for _ in range(2000):
        if not one.has_work:
            break
        one.begin()
        one.finish(0.0)
        assert one.used_tokens <= 1000
    assert not one.has_work
    assert one.preemptions > 0
    assert [resident.generated for resident in residents] == [300] * 3
    assert one.used_tokens == 0


def test_its_figures_differ_from_what_the_scheduler_believes() -> None:
    for fleet in FLEETS.values():
        prior, truth = fleet.step_model, figures_of(fleet.step_model)
        decode_s = truth.fixed_s + truth.expert_s * prior.experts
        believed_s = prior.base_s + prior.expert_s * prior.overlap * prior.experts
        assert not math.isclose(decode_s, believed_s, rel_tol=0.03)
        assert not math.isclose(truth.token_s, prior.prefill_token_s, rel_tol=0.03)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_every_request_ends_in_every_trouble(trouble: str) -> None:
    for policy in ("ours", "least-request"):
        found = play(
            RefereeRun(
                fleet="qwen",
                trace="azure-conv",
                load=0.7,
                policy=policy,
                seed=1,
                count=150,
                folder=None,
                trouble=trouble,
            )
        )
        assert 0.0 < found.met <= 1.0 - found.refused
        assert found.powered > 0.0
