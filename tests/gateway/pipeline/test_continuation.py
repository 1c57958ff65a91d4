"""Answers that break off and are continued: which ones, as which request, with which usage."""

from __future__ import annotations

import pytest

from gateway.config.remote import FailuresConfig
from gateway.domain.failures import FailureKind
from gateway.domain.generation import (
    Chat,
    FinishReason,
    Generation,
    JsonSchema,
    Message,
    Reasoning,
    Regex,
    Role,
    Sampling,
    Tool,
)
from gateway.domain.outcomes import PartialOutput, RequestOutcome
from gateway.pipeline.continuation import may_be_continued
from gateway.upstream.scripted import (
    Fail,
    Finish,
    Hang,
    Output,
    ScriptedUpstream,
    Step,
    text_answer,
)
from scheduler.contract import AttemptOutcome
from scheduler.port import BranchKind
from tests.gateway.pipeline.rig import Rig, answer, call, client, generation, running
from tests.virtual_time import in_virtual_time

CONTINUES = FailuresConfig(continue_cut_answers=True)
BAD = Fail(kind=FailureKind.SERVER_ERROR)
CUT = (Output(text="one"), Output(text=" two"), BAD)
REST = (Output(text=" three"), Output(text=" four"), Finish(prompt_tokens=7, cached_tokens=6))
CHAT = Chat(messages=(Message(role=Role.USER, parts=("Count.",)),))


def pair(*scripts: tuple[Step, ...]) -> dict[str, ScriptedUpstream]:
    """Two placements behind which one upstream is: the scripts are those of the attempts."""
    upstream = ScriptedUpstream(*scripts)
    return {"own/a": upstream, "own/b": upstream}


async def partial(rig: Rig, made: Generation | None = None) -> tuple[str, PartialOutput]:
    """What a client has of an answer that is incomplete, and the error."""
    reads = await client(rig, call(made))
    with pytest.raises(PartialOutput) as caught:
        await reads.task
    return reads.received.text, caught.value


@in_virtual_time
async def test_the_rest_comes_from_another_server_and_the_usage_adds_up() -> None:
    upstreams = pair(CUT, REST)
    async with running(upstreams, failures=CONTINUES) as rig:
        got = await answer(rig, call(generation(max_output_tokens=10)))
        assert got.text == "one two three four"
        usage = got.account.usage
        assert usage.completion_tokens == 4
        estimated = rig.scheduler.submissions[0].request.prompt_tokens
        assert (usage.prompt_tokens, usage.cached_tokens) == (estimated, None)  # of the first part
        assert usage.estimated  # the part that broke off was never reported
        assert [account.outcome for account in got.account.broken] == [AttemptOutcome.FAILED]
        assert got.account.settled.outcome is AttemptOutcome.OK
        assert rig.accounts == [*got.account.broken, got.account.settled]
        assert len(set(rig.order)) == 2
        assert [end.may_be_continued for end in rig.scheduler.attempt_ends] == [True, False]
        kinds = [value for name, value in rig.observers[0].calls if name == "attempt"]
        assert kinds == [BranchKind.ORIGINAL, BranchKind.CONTINUATION]
        assert rig.observers[0].outcomes == [RequestOutcome.OK]
        rig.assert_all_over()


@in_virtual_time
async def test_a_chat_goes_on_as_the_models_own_turn_with_what_is_left() -> None:
    upstreams = pair(CUT, REST)
    async with running(upstreams, failures=CONTINUES) as rig:
        await answer(rig, call(generation(input=CHAT, max_output_tokens=10)))
        first, second = upstreams["own/a"].generations
        assert (first.max_output_tokens, second.max_output_tokens) == (10, 8)
        assert isinstance(second.input, Chat)
        said = Message(role=Role.ASSISTANT, parts=("one two",))
        assert second.input.messages == (*CHAT.messages, said)
        assert (first.continues, second.continues) == (False, True)
        requests = [submission.request for submission in rig.scheduler.submissions]
        assert requests[1].max_output_tokens == 8
        assert requests[1].prompt_tokens == requests[0].prompt_tokens + 2


@in_virtual_time
async def test_a_prompt_goes_on_where_its_answer_ends() -> None:
    upstreams = pair(CUT, REST)
    async with running(upstreams, failures=CONTINUES) as rig:
        await answer(rig)
        assert [made.input for made in upstreams["own/a"].generations] == ["Hello", "Helloone two"]
        assert not upstreams["own/a"].generations[1].continues


@in_virtual_time
async def test_it_is_not_continued_unless_that_is_configured() -> None:
    async with running(pair(CUT, REST)) as rig:
        text, _ = await partial(rig)
        assert text == "one two"
        assert len(rig.order) == 1
        rig.assert_all_over()


@in_virtual_time
async def test_a_continuation_that_fails_before_content_is_tried_elsewhere() -> None:
    upstreams = pair(CUT, (BAD,), REST)
    upstreams["own/c"] = upstreams["own/a"]
    async with running(upstreams, failures=CONTINUES) as rig:
        assert (await answer(rig)).text == "one two three four"
        assert len(rig.order) == 3
        rig.assert_all_over()


@in_virtual_time
async def test_it_is_continued_once() -> None:
    async with running(pair(CUT, CUT, REST), failures=CONTINUES) as rig:
        text, error = await partial(rig)
        assert text == "one twoone two"
        assert error.usage.completion_tokens == 4
        assert len(rig.order) == 2
        rig.assert_all_over()


@in_virtual_time
async def test_where_nobody_can_continue_it_the_first_end_is_told() -> None:
    async with running(pair(CUT, (BAD,)), failures=CONTINUES) as rig:
        rig.upstreams.cannot_continue = frozenset(rig.scripted)
        text, error = await partial(rig)
        assert text == "one two"
        assert error.usage.completion_tokens == 2
        assert len(rig.order) == 1
        [end] = rig.scheduler.request_ends
        assert end.keep_idempotency_key
        rig.assert_all_over()


@pytest.mark.parametrize("end", [BAD, Fail(kind=FailureKind.BAD_REQUEST)])
def test_where_every_continuation_fails_the_first_end_is_told(end: Fail) -> None:
    @in_virtual_time
    async def run() -> None:
        async with running(pair(CUT, (end,)), failures=CONTINUES) as rig:
            text, error = await partial(rig)
            assert text == "one two"
            assert error.failure.kind is FailureKind.SERVER_ERROR
            assert rig.observers[0].outcomes == [RequestOutcome.PARTIAL]
            rig.assert_all_over()

    run()


@in_virtual_time
async def test_a_client_that_leaves_during_the_continuation() -> None:
    async with running(pair(CUT, (Output(text=" three"), Hang())), failures=CONTINUES) as rig:
        reads = await client(rig)
        assert reads.received.text == "one two three"
        await reads.leave()
        outcomes = [account.outcome for account in rig.accounts]
        assert outcomes == [AttemptOutcome.FAILED, AttemptOutcome.CANCELLED]
        rig.assert_all_over()


UNFIT: dict[str, tuple[Step, ...]] = {
    "reasoning": (Output(reasoning_text="hm"), Output(text="one"), BAD),
    "blank": (Output(text=" \n"), BAD),
    "deadline": (Output(text="one"), Fail(kind=FailureKind.DEADLINE)),
    "limit": (Output(text="one", tokens=100), BAD),
}


@pytest.mark.parametrize("cut", UNFIT.values(), ids=UNFIT.keys())
def test_an_answer_that_cannot_be_continued(cut: tuple[Step, ...]) -> None:
    @in_virtual_time
    async def run() -> None:
        async with running(pair(cut, REST), failures=CONTINUES) as rig:
            await partial(rig)
            assert len(rig.order) == 1
            assert not rig.scheduler.attempt_ends[0].may_be_continued
            rig.assert_all_over()

    run()


TOOL = Tool(name="f", description="", parameters_json_schema="{}")
SCHEMA = JsonSchema(name="s", schema_json="{}", strict=True)
NEVER = {
    "choices": generation(choices=2),
    "logprobs": generation(logprobs=0),
    "stop": generation(stop=("x",)),
    "seed": generation(sampling=Sampling(seed=1)),
    "ignore_eos": generation(ignore_eos=True),
    "min_tokens": generation(min_tokens=2),
    "stop_token_ids": generation(stop_token_ids=(2,)),
    "regex": generation(input=Chat(messages=CHAT.messages, constraint=Regex("a"))),
    "reasoning": generation(input=Chat(messages=CHAT.messages, reasoning=Reasoning(thinking=True))),
    "token ids": generation(input=(1, 2)),
    "tools": generation(input=Chat(messages=CHAT.messages, tools=(TOOL,))),
    "json": generation(input=Chat(messages=CHAT.messages, json_object=True)),
    "schema": generation(input=Chat(messages=CHAT.messages, json_schema=SCHEMA)),
}


@pytest.mark.parametrize("asked", NEVER.values(), ids=NEVER.keys())
def test_a_splice_would_break_what_this_asks_for(asked: Generation) -> None:
    assert not may_be_continued(asked)

    @in_virtual_time
    async def run() -> None:
        async with running(pair(CUT, REST), failures=CONTINUES) as rig:
            await partial(rig, asked)
            assert len(rig.order) == 1
            assert not rig.scheduler.submissions[0].may_be_continued

    run()


@in_virtual_time
async def test_plain_text_and_plain_chats_may_be_continued() -> None:
    assert may_be_continued(generation())
    assert may_be_continued(generation(input=CHAT))


@in_virtual_time
async def test_an_answer_that_needs_no_continuation_has_no_broken_part() -> None:
    async with running(pair(text_answer("one")), failures=CONTINUES) as rig:
        got = await answer(rig)
        assert got.account.broken == ()
        reasons = [delta.finish_reason for chunk in got.chunks for delta in chunk.deltas]
        assert reasons[-1] is FinishReason.STOP
