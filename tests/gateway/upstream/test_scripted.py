"""The scripted upstream does what its script says, and records what was done to it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, FinishReason, Generation, ToolCall
from gateway.pipeline.upstreams import Upstream
from gateway.upstream.scripted import (
    Fail,
    Finish,
    Hang,
    Output,
    ScriptedUpstream,
    Sleep,
    Step,
    StreamState,
    Turns,
    Wait,
    text_answer,
)
from tests.virtual_time import in_virtual_time

ASKED = Generation(request_id="r", model="moe", input="Hello", max_output_tokens=9)


async def read(upstream: Upstream, into: list[Chunk] | None = None) -> list[Chunk]:
    chunks = [] if into is None else into
    async with aclosing(upstream.stream(ASKED, deadline_s=7.0)) as stream:
        async for chunk in stream:
            chunks.append(chunk)
    return chunks


@in_virtual_time
async def test_outputs_and_their_count_and_the_usage() -> None:
    call = ToolCall(index=0, id="c", name="f")
    upstream = ScriptedUpstream(
        (
            Output(tokens=0),
            Output(reasoning_text="hm", tokens=2),
            Output(text="one", index=1),
            Output(tool_calls=(call,)),
            Finish(reason=FinishReason.TOOL_CALLS, prompt_tokens=3, cached_tokens=2),
        ),
        model="m",
    )
    chunks = await read(upstream)
    deltas = [delta for chunk in chunks for delta in chunk.deltas]
    assert [chunk.output_tokens for chunk in chunks] == [0, 2, 3, 4, 4]
    assert [delta.has_content for delta in deltas] == [False, True, True, True, False]
    assert (deltas[1].reasoning_text, deltas[2].index, deltas[3].tool_calls) == ("hm", 1, (call,))
    assert deltas[4].finish_reason is FinishReason.TOOL_CALLS
    assert {chunk.model for chunk in chunks} == {"m"}
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (3, 2, 4)
    [stream] = upstream.streams
    assert (stream.generation, stream.deadline_s) == (ASKED, 7.0)
    assert (stream.state, stream.output_tokens) == (StreamState.FINISHED, 4)


@in_virtual_time
async def test_a_failure_is_of_its_kind_and_comes_after_what_precedes_it() -> None:
    fail = Fail(kind=FailureKind.BUSY, message="full", param="p", retry_after_s=3.0)
    upstream = ScriptedUpstream((Output(text="one"), fail))
    chunks: list[Chunk] = []
    with pytest.raises(UpstreamFailure) as caught:
        await read(upstream, chunks)
    assert len(chunks) == 1
    error = caught.value
    assert (error.kind, error.message, error.param) == (FailureKind.BUSY, "full", "p")
    assert error.retry_after_s == 3.0
    assert upstream.streams[0].state is StreamState.FAILED


@in_virtual_time
async def test_pauses_last_as_long_as_they_say() -> None:
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.call_later(5.0, event.set)
    upstream = ScriptedUpstream((Turns(turns=3), Sleep(seconds=2.0), Wait(until=event), Finish()))
    await read(upstream)
    assert loop.time() == 5.0


@in_virtual_time
async def test_a_stream_that_hangs_is_open_until_its_reader_closes_it() -> None:
    upstream = ScriptedUpstream((Output(text="one"), Hang()))
    task = asyncio.create_task(read(upstream))
    await asyncio.sleep(1000.0)
    assert upstream.open_streams == 1
    task.cancel()
    await asyncio.wait({task})
    assert upstream.open_streams == 0
    assert upstream.streams[0].state is StreamState.CLOSED


@in_virtual_time
async def test_each_stream_has_its_script_and_the_last_one_stays() -> None:
    upstream = ScriptedUpstream(text_answer("one"), text_answer("two"))
    texts = [(await read(upstream))[0].deltas[0].text for _ in range(3)]
    assert texts == ["one", "two", "two"]
    assert upstream.generations == [ASKED] * 3


@pytest.mark.parametrize(
    "script", [(), (Output(text="one"),), (Finish(), Output(text="one")), (Finish(), Hang())]
)
def test_a_script_that_has_no_end_or_goes_on_after_it_is_refused(script: tuple[Step, ...]) -> None:
    with pytest.raises(ValueError, match="end the script"):
        ScriptedUpstream(script)


def test_no_script_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ScriptedUpstream()


def test_what_can_never_go_on_is_an_error_and_no_hang() -> None:
    @in_virtual_time
    async def run() -> None:
        await read(ScriptedUpstream((Hang(),)))

    with pytest.raises(RuntimeError, match="never end"):
        run()
