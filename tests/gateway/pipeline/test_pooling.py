"""Requests for vectors and scores on the way of a generation: whole answers, retries, hedges."""

from __future__ import annotations

import asyncio
import struct

import pytest
from msgspec import structs

from gateway.config.remote import FailuresConfig, HedgingConfig
from gateway.config.tasks import Task
from gateway.domain.failures import FailureKind
from gateway.domain.generation import Generation
from gateway.domain.outcomes import RequestOutcome, RequestRefused
from gateway.domain.pooling import EmbeddingInput, PoolingInput, Scores, ScoringInput, Vectors
from gateway.domain.prompt_bound import MESSAGE_TOKENS, prompt_token_bound
from gateway.domain.slices import finish
from gateway.pipeline.continuation import may_be_continued
from gateway.pipeline.fingerprint import features, fingerprint
from gateway.pipeline.prefix_blocks import BLOCK_BYTES, prefix_blocks
from gateway.pipeline.prompt_sizes import PromptSizes
from gateway.upstream.scripted import Fail, Hang, Pooled, ScriptedUpstream, StreamState
from scheduler.contract import AttemptOutcome, RefusalReason
from tests.gateway.pipeline.rig import REMOTE, answer, call, generation, running
from tests.virtual_time import in_virtual_time

TWO = EmbeddingInput(inputs=("a fox in the forest", "the capital of France"))
VECTORS = Vectors((struct.pack("<2f", 1.0, 0.0), struct.pack("<2f", 0.0, 1.0)))
GOOD = (Pooled(answer=VECTORS, prompt_tokens=11),)
BAD = (Fail(kind=FailureKind.SERVER_ERROR),)


def asked(pooling: PoolingInput = TWO) -> Generation:
    return generation(input=pooling, max_output_tokens=0)


@in_virtual_time
async def test_the_whole_answer_is_one_chunk_and_costs_input_alone() -> None:
    async with running({"own/a": ScriptedUpstream(GOOD)}, task=Task.EMBED) as rig:
        received = await answer(rig, call(asked(), whole_answer=True))
        (chunk,) = received.chunks
        assert chunk.pooled == VECTORS
        usage = received.account.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (11, 0)
        assert received.account.ttft_s is not None
        assert received.account.tpot_s is None
        (submission,) = rig.scheduler.submissions
        assert submission.request.inputs == 2
        assert submission.request.prefix_blocks == ()
        assert not submission.may_be_continued
        assert [end.used_tokens for end in rig.scheduler.request_ends] == [11]
        rig.assert_all_over()


@pytest.mark.parametrize("whole_answer", [True, False])
@in_virtual_time
async def test_a_failed_attempt_is_tried_elsewhere(whole_answer: bool) -> None:
    upstreams = {"own/a": ScriptedUpstream(BAD, GOOD), "own/b": ScriptedUpstream(BAD, GOOD)}
    upstreams[REMOTE] = ScriptedUpstream(GOOD)
    async with running(upstreams, task=Task.EMBED) as rig:
        received = await answer(rig, call(asked(), whole_answer=whole_answer))
        assert [chunk.pooled for chunk in received.chunks] == [VECTORS]
        outcomes = [account.outcome for account in rig.accounts]
        assert outcomes[-1] is AttemptOutcome.OK
        assert AttemptOutcome.RETRYABLE in outcomes
        rig.assert_all_over()


@in_virtual_time
async def test_a_slow_attempt_is_hedged_and_the_loser_is_ended() -> None:
    slow = {"own/a": ScriptedUpstream((Hang(),), GOOD), "own/b": ScriptedUpstream(GOOD)}
    failures = FailuresConfig(hedging=HedgingConfig(after_s=1.0, share=1.0))
    async with running(slow, failures=failures, task=Task.EMBED) as rig:
        for _ in range(4):  # until the slow one is asked first
            received = await answer(rig, call(asked(), whole_answer=True))
            assert received.chunks[0].pooled == VECTORS
            if rig.upstream("own/a").streams:
                break
        assert rig.upstream("own/a").streams[0].state is StreamState.CLOSED
        assert AttemptOutcome.SUPERSEDED in [account.outcome for account in rig.accounts]
        rig.assert_all_over()


@in_virtual_time
async def test_a_client_that_leaves_closes_the_call() -> None:
    async with running({"own/a": ScriptedUpstream((Hang(),))}, task=Task.EMBED) as rig:
        task = asyncio.create_task(answer(rig, call(asked(), whole_answer=True)))
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert rig.observers[0].outcomes == [RequestOutcome.CANCELLED]
        rig.assert_all_over()


@in_virtual_time
async def test_what_the_model_does_not_do_is_refused_before_the_scheduler_is_asked() -> None:
    scoring = asked(ScoringInput(query="q", documents=("d",)))
    for task, refused in ((Task.SCORE, asked()), (Task.GENERATE, scoring), (Task.EMBED, None)):
        async with running({"own/a": ScriptedUpstream(GOOD)}, task=task) as rig:
            with pytest.raises(RequestRefused) as caught:
                await answer(rig, call(refused))
            assert caught.value.reason is RefusalReason.OUT_OF_BOUNDS
            assert caught.value.subject == "model"
            assert not rig.scheduler.submissions


@in_virtual_time
async def test_scores_of_a_model_that_embeds() -> None:
    scores = Scores((0.5,))
    script = (Pooled(answer=scores),)
    async with running({"own/a": ScriptedUpstream(script)}, task=Task.EMBED) as rig:
        made = asked(ScoringInput(query="q", documents=("d",)))
        received = await answer(rig, call(made, whole_answer=True))
        assert [chunk.pooled for chunk in received.chunks] == [scores]


def test_a_retry_is_recognised_and_everything_that_is_asked_counts() -> None:
    def of(pooling: PoolingInput) -> int:
        made = asked(pooling)
        return fingerprint(made, finish(prefix_blocks(made, "", 10)).digest)

    long = EmbeddingInput(inputs=("x" * 3 * BLOCK_BYTES, "y"))
    assert of(TWO) == of(structs.replace(TWO))
    assert of(long) == of(structs.replace(long))
    different: list[PoolingInput] = [
        TWO,
        long,
        structs.replace(long, inputs=(long.inputs[0], "z")),
        structs.replace(TWO, inputs=TWO.inputs[::-1]),
        structs.replace(TWO, inputs=("".join(map(str, TWO.inputs)),)),
        structs.replace(TWO, dimensions=8),
        structs.replace(TWO, truncate_tokens=8),
        EmbeddingInput(inputs=((1, 2), (3,))),
        EmbeddingInput(inputs=((1,), (2, 3))),
        ScoringInput(query=str(TWO.inputs[0]), documents=(str(TWO.inputs[1]),)),
    ]
    assert len({of(pooling) for pooling in different}) == len(different)
    assert finish(prefix_blocks(asked(long), "", 10)).blocks == ()
    assert features(asked(structs.replace(TWO, dimensions=8))) == "embed+dimensions"
    assert features(asked(different[-1])) == "score"
    assert not may_be_continued(asked())


def test_inputs_are_counted_as_the_engine_reads_them() -> None:
    sizes = PromptSizes()
    assert prompt_token_bound(asked(EmbeddingInput(inputs=((1, 2), (3,))))) == 3
    assert sizes.estimate(asked(EmbeddingInput(inputs=((1, 2), (3,)))), "t") == 3
    texts = EmbeddingInput(inputs=("x" * 400, "y" * 400))
    assert prompt_token_bound(asked(texts)) == 800 + 2 * MESSAGE_TOKENS
    assert sizes.estimate(asked(texts), "t") == 200
    pairs = ScoringInput(query="q" * 100, documents=("x" * 300, "y" * 300))
    assert prompt_token_bound(asked(pairs)) == 800 + 4 * MESSAGE_TOKENS
    assert sizes.estimate(asked(pairs), "t") == 200
    for _ in range(200):
        sizes.learn(asked(texts), "t", 400)
    assert sizes.estimate(asked(texts), "t") == pytest.approx(400, rel=0.01)
