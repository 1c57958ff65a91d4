"""The simulated engine: what must hold for any load, and what its figures mean."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.engine.engine import Engine, StepResult
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import Physics
from simulation.engine.sequences import TokenRequest
from simulation.output import FinishReason, Output

SMALL = EngineConfig(
    max_num_seqs=4,
    max_num_batched_tokens=32,
    num_gpu_blocks=16,
    block_size=4,
    max_model_len=64,
)
MOST_STEPS = 5000


def engine(config: EngineConfig = SMALL, seed: int = 0) -> Engine:
    return Engine(config, Physics(QWEN3_30B_H100), seed)


def request(
    name: str, prompt_tokens: int = 8, output_tokens: int = 4, *, first: int = 0, choices: int = 1
) -> TokenRequest:
    """A prompt of the tokens from `first` on."""
    outputs = (
        Output(seed=first + i, tokens=output_tokens, finish_reason=FinishReason.LENGTH)
        for i in range(choices)
    )
    return TokenRequest(
        request_id=name,
        prompt_ids=tuple(range(first, first + prompt_tokens)),
        outputs=tuple(outputs),
    )


def drain(simulated: Engine, now: float = 0.0) -> list[StepResult]:
    """Steps until nothing is left."""
    results = []
    while simulated.has_work:
        results.append(simulated.step(now))
        now += results[-1].duration_s
        assert len(results) < MOST_STEPS, "the engine makes no progress"
    return results


def test_at_most_max_loras_adapters_run_at_once_and_share_no_cache() -> None:
    size = EngineConfig(
        max_num_seqs=8, max_num_batched_tokens=512, max_model_len=512, max_loras=2, block_size=4
    )
    simulated = engine(size)
    for name, adapter in (("x1", "x"), ("y1", "y"), ("z1", "z"), ("x2", "x"), ("m1", "")):
        simulated.add(replace(request(name, 40), adapter=adapter), 0.0)
    simulated.step(0.0)
    [rank] = simulated.ranks
    assert [s.request.request_id for s in rank.running] == ["x1", "y1", "x2", "m1"]
    assert [s.request.request_id for s in rank.waiting] == ["z1"], "it waits, others pass it"
    drain(simulated)
    assert not rank.waiting
    hits = rank.counters.cache_hits_tokens
    simulated.add(replace(request("w1", 40), adapter="w"), 9.0)
    drain(simulated, 9.0)
    assert rank.counters.cache_hits_tokens == hits, "no prompt of another adapter"
    simulated.add(replace(request("z2", 40), adapter="z"), 19.0)
    drain(simulated, 19.0)
    assert rank.counters.cache_hits_tokens > hits


lengths = st.tuples(
    st.integers(1, 40),  # prompt tokens
    st.integers(1, 24),  # output tokens
    st.integers(0, 3),  # which of four prefixes
    st.integers(1, 3),  # choices
    st.integers(0, 6),  # steps before it arrives
    st.integers(0, 12),  # aborted that many steps after; 0: never
)
loads = st.lists(lengths, min_size=1, max_size=12)
configs = st.builds(
    EngineConfig,
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(6, 40),
    num_gpu_blocks=st.integers(16, 40),
    block_size=st.just(4),
    max_model_len=st.just(64),
)


def play(simulated: Engine, load: list[tuple[int, ...]]) -> list[StepResult]:
    """Runs a load to its end, and checks the engine's invariants after each step."""
    config = simulated.config
    [rank] = simulated.ranks
    pool = rank.pool
    due: dict[int, list[TokenRequest]] = {}
    aborts: dict[int, list[str]] = {}
    arrival = 0
    for number, (prompt, output, prefix, choices, gap, patience) in enumerate(load):
        arrival += gap
        name = f"r{number}"
        made = request(name, prompt, output, first=prefix * 100, choices=choices)
        due.setdefault(arrival, []).append(made)
        if patience:
            aborts.setdefault(arrival + patience, []).append(name)
    ends: Counter[tuple[str, int]] = Counter()
    tokens: Counter[tuple[str, int]] = Counter()
    results = []
    now, step = 0.0, 0
    while simulated.has_work or step <= max([*due, *aborts]):
        for made in due.get(step, ()):
            simulated.add(made, now)
        if simulated.has_work:
            duration_s = simulated.begin_step(now)
            # In the middle of a step, as clients do.
            for name in aborts.get(step, ()):
                simulated.abort(name)
            outputs = simulated.finish_step()
            results.append(StepResult(duration_s=duration_s, outputs=outputs))
            now += duration_s
            for one in outputs:
                key = one.request_id, one.choice
                tokens[key] += 1
                assert one.tokens == tokens[key], "one token a step, in order"
                ends[key] += one.finish_reason is not None
        assert pool.free_blocks + pool.used_blocks == config.num_gpu_blocks
        assert simulated.running <= config.max_num_seqs
        assert 0.0 <= simulated.kv_usage <= 1.0
        step += 1
        assert step < MOST_STEPS, "the engine makes no progress"
    counters = simulated.counters
    assert all(count <= 1 for count in ends.values()), "a choice ended twice"
    assert sum(counters.finished.values()) == counters.added == sum(item[3] for item in load)
    assert sum(ends.values()) == counters.added - counters.finished[FinishReason.ABORT]
    assert pool.used_blocks == 0, "a block was lost"
    assert (simulated.running, simulated.waiting) == (0, 0)
    return results


@settings(deadline=None)
@given(configs, loads)
def test_every_request_ends_once_and_all_blocks_come_back(
    config: EngineConfig, load: list[tuple[int, ...]]
) -> None:
    play(engine(config), load)


@settings(deadline=None, max_examples=25)
@given(configs, loads, st.integers(0, 3))
def test_the_same_seed_gives_the_same_run(
    config: EngineConfig, load: list[tuple[int, ...]], seed: int
) -> None:
    assert play(engine(config, seed), load) == play(engine(config, seed), load)


def test_another_seed_gives_other_times_only() -> None:
    runs = []
    for seed in (1, 2):
        simulated = engine(seed=seed)
        simulated.add(request("a"), 0.0)
        runs.append(drain(simulated))
    assert [result.outputs for result in runs[0]] == [result.outputs for result in runs[1]]
    assert runs[0] != runs[1]


def test_an_abort_frees_everything_at_once() -> None:
    simulated = engine()
    for number in range(8):
        simulated.add(request(f"r{number}", first=number * 100, choices=2), 0.0)
    simulated.step(0.0)
    assert simulated.ranks[0].pool.used_blocks > 0
    assert simulated.waiting > 0
    for number in range(8):
        simulated.abort(f"r{number}")
    assert simulated.counters.finished[FinishReason.ABORT] == 16
    assert simulated.ranks[0].pool.used_blocks == 0
    assert not simulated.has_work
    assert simulated.abort("r0") == 0.0, "twice is no error"
    simulated.add(request("r0"), 1.0)
    assert sum(len(result.outputs) for result in drain(simulated, 1.0)) == 4


def test_preempted_sequences_finish_with_every_token() -> None:
    # Four sequences of 4 blocks at last, in 10 blocks.
    config = replace(SMALL, num_gpu_blocks=10, max_model_len=40)
    simulated = engine(config)
    for number in range(4):
        simulated.add(request(f"r{number}", 6, 10, first=number * 100), 0.0)
    results = drain(simulated)
    assert simulated.counters.preemptions > 0
    assert simulated.counters.generation_tokens == 40
    tokens = Counter(one.request_id for result in results for one in result.outputs)
    assert tokens == {f"r{number}": 10 for number in range(4)}
    assert simulated.counters.prompt_tokens == 24, "counted once, however often computed"


def test_a_second_identical_prompt_is_cached_by_full_blocks() -> None:
    simulated = engine()
    for number, (prompt_tokens, cached_tokens) in enumerate([(11, 0), (11, 8), (8, 4), (13, 8)]):
        name = f"r{number}"
        simulated.add(request(name, prompt_tokens, 1), 0.0)
        [result] = drain(simulated)
        # Of 8 tokens only the first block: the last token is always computed.
        assert result.outputs[0].cached_tokens == cached_tokens, name
    counters = simulated.counters
    assert (counters.cache_queries_tokens, counters.cache_hits_tokens) == (43, 20)
    assert simulated.kv_usage == 0.0, "cached blocks are free"


def test_another_salt_or_another_beginning_finds_nothing() -> None:
    simulated = engine()
    simulated.add(request("a", 12, 1), 0.0)
    salted = replace(request("b", 12, 1), cache_salt="tenant")
    shifted = replace(request("c", 12, 1), prompt_ids=(99, *range(1, 12)))
    for other in (salted, shifted):
        drain(simulated)
        simulated.add(other, 0.0)
        [result] = drain(simulated)
        assert result.outputs[0].cached_tokens == 0


def test_the_cache_forgets_the_least_recently_used() -> None:
    simulated = engine()
    for number in (0, 1, 2, 3, 0, 4, 5):  # 4 blocks each of 16; 0 is used again before 4 and 5
        simulated.add(request(f"r{number}", 14, 1, first=number * 100), 0.0)
        drain(simulated)
    found = {}
    for number in (0, 1):
        simulated.add(request(f"r{number}", 14, 1, first=number * 100), 0.0)
        found[number] = drain(simulated)[0].outputs[0].cached_tokens
    assert found == {0: 12, 1: 0}


def test_choices_share_the_prompt_and_the_next_turn_finds_the_answer() -> None:
    simulated = engine(replace(SMALL, num_gpu_blocks=64))
    first = request("a", 12, 8, choices=3)
    simulated.add(first, 0.0)
    simulated.step(0.0)
    assert simulated.running == 3
    assert simulated.ranks[0].pool.used_blocks == 2 + 3, "two blocks in common, one each"
    drain(simulated)
    answer = [first.outputs[0].token_id(i) for i in range(8)]
    turn = replace(request("b", 1, 1), prompt_ids=(*first.prompt_ids, *answer, 7, 7))
    simulated.add(turn, 0.0)
    # The last token of the answer was never computed, so its block is not full.
    assert drain(simulated)[0].outputs[0].cached_tokens == 16


def test_long_prompts_are_prefilled_in_chunks_beside_decodes() -> None:
    config = replace(SMALL, max_num_batched_tokens=8, noise_sigma=0.0)
    simulated = engine(config)
    simulated.add(request("short", 4, 8), 0.0)
    simulated.step(0.0)
    simulated.add(request("long", 20, 1, first=100), 0.0)
    seen = [[one.request_id for one in result.outputs] for result in drain(simulated)]
    # 20 tokens at 7 a step, beside one decode: the third step brings the token.
    assert seen[:4] == [["short"], ["short"], ["short", "long"], ["short"]]


def test_each_chunk_of_a_prompt_pays_the_step_that_it_is_alone_in() -> None:
    model = replace(QWEN3_30B_H100, chunk_tokens=8)
    chunked = Engine(replace(SMALL, max_num_batched_tokens=8, noise_sigma=0.0), Physics(model), 0)
    chunked.add(request("a", 24, 1), 0.0)
    durations = [result.duration_s for result in drain(chunked)]
    assert len(durations) == 3
    assert sum(durations) == pytest.approx(model.prefill_time_s(24, 24))


def test_a_chunk_beside_decodes_pays_no_step_and_only_experts_that_they_leave() -> None:
    model = QWEN3_30B_H100
    simulated = Engine(replace(SMALL, noise_sigma=0.0), Physics(model), 0)
    for number in range(2):
        simulated.add(request(f"r{number}", 8, 9, first=number * 100), 0.0)
    simulated.step(0.0)
    simulated.add(request("more", 6, 2, first=900), 0.0)
    simulated.add(request("yet more", 3, 2, first=950), 0.0)
    took_s = simulated.step(0.0).duration_s
    tokens_s = model.prompt_work_s(6, 6) + model.prompt_work_s(3, 3)
    experts_s = model.expert_s * model.touched_experts(2 + 9)
    fixed_s = model.base_s + 2 * model.sequence_s + model.kv_token_s * 2 * 9
    assert took_s == pytest.approx(fixed_s + experts_s + tokens_s), "each of them once"


def test_a_decode_step_takes_what_the_step_model_says() -> None:
    model = QWEN3_30B_H100
    durations = []
    for batch in (1, 2, 4, 8, 16, 32):
        config = EngineConfig(noise_sigma=0.0, max_num_seqs=32)
        simulated = Engine(config, Physics(model), 0)
        for number in range(batch):
            simulated.add(request(f"r{number}", 8, 3, first=number * 100), 0.0)
        results = drain(simulated)
        durations.append(results[-1].duration_s)
        assert durations[-1] == pytest.approx(model.decode_step_s(batch, batch * 10))
    assert durations == sorted(durations), "T(B) rises with B"
    per_token = [seconds / batch for seconds, batch in zip(durations, (1, 2, 4), strict=False)]
    assert per_token == sorted(per_token, reverse=True), "and each token costs less"


def test_noise_has_mean_one() -> None:
    simulated = Engine(EngineConfig(noise_sigma=0.05), Physics(QWEN3_30B_H100), 7)
    simulated.add(request("a", 1, 2000), 0.0)
    quiet = Engine(EngineConfig(noise_sigma=0.0), Physics(QWEN3_30B_H100), 7)
    quiet.add(request("a", 1, 2000), 0.0)
    noisy_s, quiet_s = (sum(r.duration_s for r in drain(one)) for one in (simulated, quiet))
    assert noisy_s != quiet_s
    assert noisy_s == pytest.approx(quiet_s, rel=0.01)


def test_histograms_tell_the_simulated_times() -> None:
    simulated = engine(replace(SMALL, noise_sigma=0.0, max_num_seqs=1))
    simulated.add(request("a", 8, 3), 10.0)
    simulated.add(request("b", 8, 1, first=100), 10.0)
    results = drain(simulated, 12.0)
    counters = simulated.counters
    first_s = results[0].duration_s
    a_s = sum(result.duration_s for result in results[:3])
    b_s = a_s + results[3].duration_s
    assert counters.ttft_s.count == 2
    assert counters.ttft_s.total == pytest.approx(2.0 + first_s + 2.0 + b_s)
    assert counters.queue_s.total == pytest.approx(2.0 + 2.0 + a_s)
    assert counters.e2e_s.total == pytest.approx(4.0 + a_s + b_s)
    assert counters.inter_token_s.count == 2
    assert counters.inter_token_s.total == pytest.approx(a_s - first_s)
    assert counters.step_tokens.total == 8 + 8 + 4, "prompts and output"


@pytest.mark.parametrize(
    "wrong",
    [
        request("empty", 0, 1),
        request("long", 60, 5),
        request("silent", 4, 0),
        replace(request("mute"), outputs=()),
        request("twice"),
    ],
    ids=lambda wrong: str(wrong.request_id),
)
def test_what_cannot_run_is_refused_at_the_door(wrong: TokenRequest) -> None:
    simulated = engine()
    simulated.add(request("twice"), 0.0)
    with pytest.raises(ValueError, match=r"."):
        simulated.add(wrong, 0.0)
    assert simulated.waiting == 1


def test_sizes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="KV cache"):
        EngineConfig(num_gpu_blocks=4, block_size=4, max_model_len=64)
    with pytest.raises(ValueError, match="max_num_seqs"):
        EngineConfig(max_num_batched_tokens=8, max_num_seqs=16)
    with pytest.raises(ValueError, match="positive"):
        EngineConfig(block_size=0)
