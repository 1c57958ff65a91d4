"""Steps of the simulated engine whose KV cache is full, as vLLM's scheduler chooses them.

The expected rows follow from its rules: blocks go to the running sequences in order of admission;
where one has none left, the one admitted last gives its blocks back, the last of them first, and
waits at the head of the queue; nothing is admitted in that step, nor before all tokens of the head
have room; what the prefix cache still has of it is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.kv_cache import BlockPool
from simulation.engine.physics import Physics
from simulation.engine.sequences import LengthRequest, SequenceRequest, TokenRequest
from simulation.output import FinishReason, Output

BLOCK = 4
Request = Callable[[str, int, int], SequenceRequest]


def engine(blocks: int, step_tokens: int = 32) -> Engine:
    config = EngineConfig(
        max_num_seqs=4,
        max_num_batched_tokens=step_tokens,
        num_gpu_blocks=blocks,
        block_size=BLOCK,
        max_model_len=blocks * BLOCK,
        noise_sigma=0.0,
    )
    return Engine(config, Physics(QWEN3_30B_H100), 0)


def of_tokens(name: str, prompt_tokens: int, output_tokens: int) -> SequenceRequest:
    """A prompt of tokens that no other has."""
    first = 1000 * ord(name)
    output = Output(seed=first, tokens=output_tokens, finish_reason=FinishReason.LENGTH)
    return TokenRequest(
        request_id=name,
        prompt_ids=tuple(range(first, first + prompt_tokens)),
        outputs=(output,),
    )


def of_lengths(name: str, prompt_tokens: int, output_tokens: int) -> SequenceRequest:
    return LengthRequest(request_id=name, prompt_tokens=prompt_tokens, tokens=output_tokens)


def stepped(simulated: Engine) -> tuple[dict[str, int], list[str], int]:
    """Tokens of the next step, by request, who waits meanwhile, and the blocks that are free."""
    simulated.begin_step(0.0)
    [rank] = simulated.ranks
    tokens = {one.request.request_id: 1 for one in rank.running if one.decodes}
    tokens |= {one.request.request_id: chunk for one, chunk in rank.prefills}
    waiting = [one.request.request_id for one in rank.waiting]
    free = rank.pool.free_blocks
    simulated.finish_step()
    return tokens, waiting, free


@pytest.mark.parametrize("request_of", [of_tokens, of_lengths])
def test_the_last_admitted_leaves_and_computes_again_what_was_taken(request_of: Request) -> None:
    simulated = engine(6)
    simulated.add(request_of("a", 6, 12), 0.0)
    simulated.add(request_of("b", 6, 12), 0.0)
    rows = [stepped(simulated) for _ in range(4)]
    simulated.add(request_of("c", 2, 1), 0.0)
    while simulated.has_work:
        rows.append(stepped(simulated))
    both = {"a": 1, "b": 1}
    assert rows == [
        ({"a": 6, "b": 6}, [], 2),
        (both, [], 2),
        (both, [], 2),
        (both, [], 0),  # nine tokens each
        (both, ["c"], 0),
        (both, ["c"], 0),
        (both, ["c"], 0),
        # The 13th token of a takes the last block of b.
        ({"a": 1}, ["b", "c"], 2),
        # b needs four blocks, and c does not pass it.
        ({"a": 1}, ["b", "c"], 2),
        ({"a": 1}, ["b", "c"], 2),
        ({"a": 1}, ["b", "c"], 2),
        # The 17th takes another one of b.
        ({"a": 1}, ["b", "c"], 1),
        # Four of its 13 tokens are still there.
        ({"b": 9, "c": 2}, [], 1),
        *[({"b": 1}, [], 2)] * 3,
        ({"b": 1}, [], 1),
    ]
    assert simulated.counters.preemptions == 1


@pytest.mark.parametrize("request_of", [of_tokens, of_lengths])
def test_a_prompt_in_part_leaves_when_the_rest_does_not_fit(request_of: Request) -> None:
    simulated = engine(6, step_tokens=9)
    simulated.add(request_of("a", 11, 10), 0.0)
    rows = [stepped(simulated), stepped(simulated)]
    simulated.add(request_of("b", 12, 1), 0.0)
    while simulated.has_work:
        rows.append(stepped(simulated))
    assert rows == [
        ({"a": 9}, [], 3),
        ({"a": 2}, [], 3),
        ({"a": 1, "b": 8}, [], 1),
        # The 13th token of a takes the last block: b has no room for its rest.
        ({"a": 1}, ["b"], 2),
        *[({"a": 1}, ["b"], 2)] * 3,
        *[({"a": 1}, ["b"], 1)] * 4,
        # One of its two blocks was taken: four of its tokens are still there.
        ({"b": 8}, [], 3),
    ]


def test_blocks_that_are_not_full_are_reused_before_cached_ones() -> None:
    pool = BlockPool(4)
    pool.take(3)
    assert pool.remember("x")
    assert pool.remember("y")
    pool.release(["x", "y"], 0)
    pool.release([], 1, unfilled_blocks=1)
    pool.take(2)
    assert pool.lookup(["x", "y"], 2) == ["x", "y"]
    pool.take(1)
    assert pool.lookup(["x", "y"], 2) == ["x"]
    assert pool.free_blocks == 1
