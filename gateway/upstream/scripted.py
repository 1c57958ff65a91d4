"""An upstream that follows a script, without a network: the test double of the pipeline.

It ships with the gateway, so that developers who change or embed the pipeline can run it
without sockets. A script is a sequence of frozen steps; each step adds a chunk, waits, or ends the
stream.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import (
    ChoiceDelta,
    Chunk,
    FinishReason,
    Generation,
    TokenLogprob,
    ToolCall,
)
from gateway.domain.pooling import Scores, Vectors
from scheduler.contract import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One chunk with output of one choice. Without any content it is the frame that announces the
    role of the speaker. `tokens`: output tokens that it adds."""

    text: str = ""
    reasoning_text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0
    tokens: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """The event loop runs everything else that is ready, `turns` times."""

    turns: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Nothing comes for a while."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing comes until the event is set."""

    until: asyncio.Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Successful end: a finish reason and the usage, with the output tokens of the script."""

    reason: FinishReason = FinishReason.STOP
    prompt_tokens: int = 5
    cached_tokens: int | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """Successful end of a request for vectors or scores: the whole answer."""

    answer: Vectors | Scores
    prompt_tokens: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Failed end."""

    kind: FailureKind
    message: str = "scripted"
    param: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Hang:
    """No end: nothing more comes until the stream is closed."""


Step = Output | Turns | Sleep | Wait | Finish | Pooled | Fail | Hang
_LAST_STEPS = Finish | Pooled | Fail | Hang


def text_answer(*pieces: str) -> tuple[Step, ...]:
    """A good answer of plain text, one token a piece."""
    return (*(Output(text=piece) for piece in pieces), Finish())


class StreamState(enum.StrEnum):
    """How far a stream has come."""

    OPEN = "open"
    FINISHED = "finished"
    FAILED = "failed"
    CLOSED = "closed"
    """Its reader closed it before its end."""


@dataclass(slots=True, kw_only=True, eq=False)
class ScriptedStream:
    """One call of an upstream. `output_tokens`: those that its reader was given."""

    generation: Generation
    deadline_s: float
    state: StreamState = StreamState.OPEN
    output_tokens: int = 0


class ScriptedUpstream:
    """Implements `gateway.pipeline.upstreams.Upstream`. The first stream follows the first script,
    and so on; the last script serves all further streams."""

    def __init__(self, *scripts: Sequence[Step], model: str = "scripted") -> None:
        """Raises ValueError unless every script ends with `Finish`, `Pooled`, `Fail` or `Hang`,
        and has none of them before."""
        if not scripts:
            raise ValueError("give at least one script")
        for script in scripts:
            ends = [isinstance(step, _LAST_STEPS) for step in script]
            if ends.count(True) != 1 or not ends[-1]:
                raise ValueError(f"end the script with one Finish, Pooled, Fail or Hang: {script}")
        self.streams: list[ScriptedStream] = []
        """Every stream that began, in order."""
        self._scripts = scripts
        self._model = model

    @property
    def generations(self) -> list[Generation]:
        """The generation of every stream, in order."""
        return [stream.generation for stream in self.streams]

    @property
    def open_streams(self) -> int:
        """Streams that have not ended."""
        return sum(stream.state is StreamState.OPEN for stream in self.streams)

    async def stream(
        self, generation: Generation, *, deadline_s: float
    ) -> AsyncGenerator[Chunk, None]:
        """See `Upstream`. The script alone says when a stream ends: no deadline is enforced."""
        script = self._scripts[min(len(self.streams), len(self._scripts) - 1)]
        stream = ScriptedStream(generation=generation, deadline_s=deadline_s)
        self.streams.append(stream)
        try:
            for step in script:
                match step:
                    case Output():
                        stream.output_tokens += step.tokens
                        yield self._chunk(stream, _delta(step))
                    case Finish():
                        delta = ChoiceDelta(index=0, finish_reason=step.reason)
                        yield self._chunk(stream, delta, _usage(step, stream.output_tokens))
                        stream.state = StreamState.FINISHED
                    case Pooled():
                        yield self._pooled(step)
                        stream.state = StreamState.FINISHED
                    case Fail():
                        stream.state = StreamState.FAILED
                        raise UpstreamFailure(
                            step.kind,
                            step.message,
                            param=step.param,
                            retry_after_s=step.retry_after_s,
                        )
                    case _:
                        await _pause(step)
        finally:
            if stream.state is StreamState.OPEN:
                stream.state = StreamState.CLOSED

    def _pooled(self, step: Pooled) -> Chunk:
        return Chunk(
            deltas=(),
            output_tokens=1,
            usage=Usage(prompt_tokens=step.prompt_tokens, completion_tokens=0),
            model=self._model,
            response_id=f"{self._model}-{len(self.streams)}",
            pooled=step.answer,
        )

    def _chunk(
        self, stream: ScriptedStream, delta: ChoiceDelta, usage: Usage | None = None
    ) -> Chunk:
        return Chunk(
            deltas=(delta,),
            output_tokens=stream.output_tokens,
            usage=usage,
            model=self._model,
            response_id=f"{self._model}-{len(self.streams)}",
        )


async def _pause(step: Turns | Sleep | Wait | Hang) -> None:
    match step:
        case Turns():
            for _ in range(step.turns):
                await asyncio.sleep(0)
        case Sleep():
            await asyncio.sleep(step.seconds)
        case Wait():
            await step.until.wait()
        case Hang():
            await asyncio.get_running_loop().create_future()


def _delta(step: Output) -> ChoiceDelta:
    return ChoiceDelta(
        index=step.index,
        text=step.text,
        reasoning_text=step.reasoning_text,
        tool_calls=step.tool_calls,
        logprobs=step.logprobs,
    )


def _usage(step: Finish, output_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=step.prompt_tokens,
        completion_tokens=output_tokens,
        cached_tokens=step.cached_tokens,
        estimated=step.estimated,
    )
