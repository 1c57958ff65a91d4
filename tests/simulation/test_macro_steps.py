"""Many steps as one: the same run as step by step, faster."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import ExpertLoad, Physics, deal, perturbed, popularity
from simulation.engine.sequences import LengthRequest

MANY = 1 << 20
SMALL = EngineConfig(
    max_num_seqs=6,
    max_num_batched_tokens=64,
    num_gpu_blocks=24,
    block_size=4,
    max_model_len=80,
    noise_sigma=0.0,
)


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    request: LengthRequest
    gives_up_s: float | None = None


@dataclass(slots=True)
class Ended:
    first_s: float = 0.0
    end_s: float = 0.0
    tokens: int = 0
    cost_s: float = 0.0


def run(
    engine: Engine, arrivals: list[Arrival], most_steps: int, reads_s: float = 0.0
) -> dict[str, Ended]:
    """Plays arrivals; between steps, as an event loop does it. `reads_s`: how often it is read."""
    found: dict[str, Ended] = {}
    due = sorted(arrivals, key=lambda a: a.at_s)
    leaves = sorted(
        (a.at_s + a.gives_up_s, a.request.request_id) for a in arrivals if a.gives_up_s is not None
    )
    now, end_s, next_read_s = 0.0, None, reads_s or float("inf")
    events = 0
    while due or leaves or engine.has_work:
        events += 1
        assert events < 200_000, "no end"
        if end_s is None and engine.has_work:
            end_s = now + engine.begin_step(now, most_steps)
        times = [due[0].at_s if due else float("inf"), leaves[0][0] if leaves else float("inf")]
        if engine.has_work or end_s is not None:
            times += [end_s if end_s is not None else now, next_read_s]
        now = max(now, min(times))
        if end_s is not None and end_s <= now:
            for sequence in engine.finish():
                one = found.setdefault(sequence.request.request_id, Ended())
                one.first_s = one.first_s or end_s
                if sequence.ended:
                    one.end_s, one.tokens = end_s, engine.output_tokens(sequence)
                    one.cost_s = sequence.cost_s
            end_s = None
        elif due and due[0].at_s <= now:
            engine.add(due.pop(0).request, now)
            end_s = engine.interrupt(now) if end_s is not None else None
        elif leaves and leaves[0][0] <= now:
            name = leaves.pop(0)[1]
            if engine.sequences(name):
                end_s = engine.interrupt(now) if end_s is not None else None
                found.setdefault(name, Ended()).cost_s = engine.abort(name)
        else:
            engine.settle(now)
            next_read_s = now + reads_s
        for rank in engine.ranks:
            assert 0 <= rank.pool.used_blocks <= engine.config.num_gpu_blocks
            assert len(rank.running) <= engine.config.max_num_seqs
    assert engine.kv_usage == 0.0
    assert sum(engine.counters.finished.values()) == engine.counters.added == len(arrivals)
    busy_s = engine.truth.busy_s
    assert sum(one.cost_s for one in found.values()) == pytest.approx(busy_s, rel=1e-6, abs=1e-9)
    return found


arrivals_of = st.lists(
    st.builds(
        lambda gap, prompt, tokens, prefix, leaves: (gap, prompt, tokens, prefix, leaves),
        st.floats(0.0, 0.3),
        st.integers(1, 50),
        st.integers(1, 30),
        st.integers(0, 2),
        st.none() | st.floats(0.0, 0.2),
    ),
    min_size=1,
    max_size=14,
)


def planned(load: list[tuple[float, int, int, int, float | None]], extent: int) -> list[Arrival]:
    arrivals, at_s = [], 0.0
    for number, (gap, prompt, tokens, prefix, leaves) in enumerate(load):
        at_s += gap
        content = tuple((prefix, i) for i in range((prompt + tokens) // extent))
        request = LengthRequest(
            request_id=f"r{number}", prompt_tokens=prompt, tokens=tokens, content=content
        )
        arrivals.append(Arrival(at_s, request, leaves))
    return arrivals


@settings(deadline=None, max_examples=150)
@given(arrivals_of, st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]), st.booleans())
def test_many_steps_as_one_are_the_same_run(
    load: list[tuple[float, int, int, int, float | None]], ranks: int, extent: int, reads: bool
) -> None:
    config = replace(SMALL, ranks=ranks, extent_blocks=extent)
    physics = Physics(QWEN3_30B_H100)
    arrivals = planned(load, 4 * extent)
    single, many = Engine(config, physics, 0), Engine(config, physics, 0)
    expected = run(single, arrivals, 1)
    found = run(many, arrivals, MANY, reads_s=0.003 if reads else 0.0)
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert found[name].tokens == one.tokens
        assert found[name].first_s == pytest.approx(one.first_s, rel=1e-9)
        # Two ranks may change places as the fullest one step late.
        assert found[name].end_s == pytest.approx(one.end_s, rel=1e-9 if ranks == 1 else 1e-2)
    ours, theirs = many.counters, single.counters
    assert ours.generation_tokens == theirs.generation_tokens
    assert ours.preemptions == theirs.preemptions
    assert ours.cache_hits_tokens == theirs.cache_hits_tokens
    assert ours.inter_token_s.count == theirs.inter_token_s.count
    assert ours.inter_token_s.total == pytest.approx(theirs.inter_token_s.total, rel=1e-2)
    if ranks == 1:
        assert ours.step_tokens.counts == theirs.step_tokens.counts
    assert ours.step_tokens.total == theirs.step_tokens.total


def test_with_noise_the_times_agree_within_one_percent() -> None:
    config = EngineConfig(noise_sigma=0.1)
    means = []
    for most_steps in (1, MANY):
        engine = Engine(config, Physics(QWEN3_30B_H100), seed=3)
        load = [
            Arrival(
                0.11 * i,
                LengthRequest(
                    request_id=f"r{i}", prompt_tokens=200 + 37 * (i % 50), tokens=20 + 11 * (i % 30)
                ),
            )
            for i in range(600)
        ]
        ended = run(engine, load, most_steps)
        arrived = {a.request.request_id: a.at_s for a in load}
        total_s = sum(one.end_s - arrived[name] for name, one in ended.items())
        tpot_s = sum((one.end_s - one.first_s) / one.tokens for one in ended.values())
        means.append((total_s, tpot_s, engine.truth.busy_s))
    assert means[1] == pytest.approx(means[0], rel=0.01)


def test_ranks_in_lock_step_go_at_the_pace_of_the_slowest() -> None:
    config = EngineConfig(ranks=4, noise_sigma=0.0)
    physics = Physics(QWEN3_30B_H100)
    engine = Engine(config, physics, 0)
    for rank, prompt in enumerate((100, 100, 4000)):
        name = f"r{rank}"
        engine.add(LengthRequest(request_id=name, prompt_tokens=prompt, tokens=3), 0.0, rank=rank)
    first_s = engine.begin_step(0.0)
    engine.finish()
    longest_s = physics.prompt_work_s(4000, 4000)
    assert first_s == pytest.approx(longest_s + physics.prompt_step_s(0, 4200)), "the longest"
    second_s = engine.begin_step(first_s)
    fullest_s = QWEN3_30B_H100.kv_token_s * 4001
    assert second_s == pytest.approx(physics.decode_fixed_s(3) + fullest_s)
    engine.finish()
    assert [rank.step for rank in engine.ranks] == [2] * 4, "the idle rank ran along"


def test_unpinned_requests_go_to_the_least_busy_rank() -> None:
    engine = Engine(EngineConfig(ranks=3), Physics(QWEN3_30B_H100), 0)
    for number in range(6):
        engine.add(LengthRequest(request_id=f"r{number}", prompt_tokens=50, tokens=9), 0.0)
    assert [len(rank.waiting) for rank in engine.ranks] == [2, 2, 2]


def test_skewed_experts_are_fewer_and_less_even() -> None:
    even = Physics(QWEN3_30B_H100)
    skewed = Physics(QWEN3_30B_H100, ExpertLoad(zipf_exponent=0.6))
    for batch in (4, 16, 64):
        uniform = QWEN3_30B_H100.distinct_experts(batch)
        assert even.decode_fixed_s(batch) == QWEN3_30B_H100.decode_step_s(batch, 0)
        assert skewed.distinct_experts(batch) < uniform, "Jensen"
    chances = popularity(QWEN3_30B_H100, 0.6)
    assert chances.sum() == pytest.approx(8.0)
    assert chances.max() < 1.0


def test_eplb_cures_skew_and_batch_does_not() -> None:
    model = replace(QWEN3_30B_H100, experts=256)
    without, balanced, uniform = (
        Physics(model, load)
        for load in (
            ExpertLoad(zipf_exponent=0.6, expert_ranks=8, eplb=False, seed=0),
            ExpertLoad(zipf_exponent=0.6, expert_ranks=8, eplb=True),
            ExpertLoad(expert_ranks=8),
        )
    )
    # Imbalance by sampling alone at B = 32, 256, 1024: 1.28, 1.07, 1.04 in a simulation.
    for batch, phi in ((32, 1.28), (256, 1.07), (1024, 1.04)):
        assert uniform.imbalance(batch) == pytest.approx(phi, rel=0.04)
    assert without.imbalance(1024) > 1.25
    assert balanced.imbalance(1024) < 1.1
    assert without.decode_fixed_s(64) > balanced.decode_fixed_s(64)
    for load in (ExpertLoad(expert_ranks=8, eplb=False), ExpertLoad(expert_ranks=8)):
        assert sorted(deal(popularity(model, 0.6), load).ravel()) == list(range(256))


def test_a_perturbed_truth_is_off_by_at_most_the_factor() -> None:
    truth = perturbed(QWEN3_30B_H100, seed=5)
    assert truth == perturbed(QWEN3_30B_H100, seed=5)
    for name in ("base_s", "expert_s", "sequence_s", "kv_token_s", "prefill_s", "prefill_token_s"):
        ratio = getattr(truth, name) / getattr(QWEN3_30B_H100, name)
        assert 1 / 1.5 <= ratio <= 1.5
        assert ratio != 1.0
