"""Frames of an OpenAI-shaped stream into chunks, and whether the stream came to a good end.

A pure state machine: fed with the payloads of one answer, it needs no network. A good end is a
finish reason for every choice; `[DONE]` says nothing, vLLM sends it after an error too.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.backends.failures import FailureKind, UpstreamFailure
from gateway.backends.openai_wire import Choice, ErrorBody, Logprobs, StreamChunk, UsageCounts
from gateway.generation import (
    ChoiceDelta,
    Chunk,
    FinishReason,
    Generation,
    TokenLogprob,
    ToolCall,
    Usage,
)

MAX_MESSAGE_CHARS = 500
"""What is kept of an upstream's words: enough to act on, not enough to flood a log."""

_FINISH = {
    "stop": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_decode = msgspec.json.Decoder(StreamChunk).decode


class StreamState:
    """One answer as it comes in."""

    def __init__(self, generation: Generation, estimated_prompt_tokens: int) -> None:
        self._choices = generation.choices
        self._estimated_prompt_tokens = estimated_prompt_tokens
        self._finished: set[int] = set()
        self._tokens: dict[int, int] = {}
        self._frames = 0
        self._usage: UsageCounts | None = None
        self.model = ""

    @property
    def output_tokens(self) -> int:
        """Tokens so far: as the upstream counts them, else frames with content."""
        return sum(self._tokens.values()) if self._tokens else self._frames

    def take(self, payloads: Iterable[bytes]) -> Chunk:
        """What the frames bring, as one chunk. Raises UpstreamFailure."""
        deltas: list[ChoiceDelta] = []
        for payload in payloads:
            if payload == b"[DONE]":
                continue
            try:
                frame = _decode(payload)
            except msgspec.DecodeError as error:
                raise UpstreamFailure(
                    FailureKind.PROTOCOL, f"a frame that is no chunk: {error}"
                ) from None
            if frame.error is not None:
                raise in_band_failure(frame.error)
            self.model = frame.model or self.model
            if frame.usage is not None:
                self._usage = frame.usage  # the last one holds: they are totals, not differences
                if len(frame.choices) == 1:
                    self._tokens[frame.choices[0].index] = frame.usage.completion_tokens
            for choice in frame.choices:
                delta = self._delta(choice)
                if delta is not None:
                    deltas.append(delta)
        return Chunk(deltas=tuple(deltas), output_tokens=self.output_tokens, model=self.model)

    def end(self) -> Chunk:
        """The account, once the stream has ended. Raises UpstreamFailure if it was cut."""
        missing = self._choices - len(self._finished)
        if missing > 0:
            raise UpstreamFailure(
                FailureKind.SERVER_ERROR,
                f"the stream ended with {missing} of {self._choices} choices unfinished",
            )
        usage = self.usage()
        return Chunk(
            deltas=(), output_tokens=usage.completion_tokens, usage=usage, model=self.model
        )

    def usage(self) -> Usage:
        """Token counts, normalised; an estimate where the upstream told none."""
        counts = self._usage
        if counts is None:
            return Usage(
                prompt_tokens=self._estimated_prompt_tokens,
                completion_tokens=self.output_tokens,
                estimated=True,
            )
        prompt, completion = counts.prompt_tokens_details, counts.completion_tokens_details
        return Usage(
            prompt_tokens=counts.prompt_tokens,
            # With several choices, vLLM's running counts are per choice: only a final frame
            # without choices counts all of them.
            completion_tokens=max(counts.completion_tokens, sum(self._tokens.values())),
            cached_tokens=prompt.cached_tokens if prompt else None,
            reasoning_tokens=completion.reasoning_tokens if completion else None,
        )

    def _delta(self, choice: Choice) -> ChoiceDelta | None:
        finish_reason = None
        if choice.finish_reason is not None:
            finish_reason = _FINISH.get(choice.finish_reason)
            if choice.finish_reason in ("abort", "error"):
                message = f"the engine ended the answer: {choice.finish_reason}"
                raise UpstreamFailure(FailureKind.SERVER_ERROR, message)
            if finish_reason is None:
                message = f"finish_reason {choice.finish_reason[:80]!r} is not known"
                raise UpstreamFailure(FailureKind.PROTOCOL, message)
        if not 0 <= choice.index < self._choices:
            message = f"choice {choice.index} of {self._choices} that were asked for"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        if finish_reason is not None:
            self._finished.add(choice.index)
        text, reasoning = choice.text or "", ""
        tool_calls: tuple[ToolCall, ...] = ()
        if choice.delta is not None:
            text = choice.delta.content or ""
            reasoning = choice.delta.reasoning_content or choice.delta.reasoning or ""
            tool_calls = tuple(
                ToolCall(
                    index=piece.index,
                    id=piece.id or "",
                    name=(piece.function.name or "") if piece.function else "",
                    arguments_json=(piece.function.arguments or "") if piece.function else "",
                )
                for piece in choice.delta.tool_calls or ()
            )
        logprobs = _logprobs(choice.logprobs) if choice.logprobs is not None else ()
        if not (text or reasoning or tool_calls or logprobs or finish_reason):
            return None  # the role of the speaker, or half a character: nothing to hand on
        self._frames += bool(text or reasoning or tool_calls)
        return ChoiceDelta(
            index=choice.index,
            text=text,
            reasoning_text=reasoning,
            tool_calls=tool_calls,
            logprobs=logprobs,
            finish_reason=finish_reason,
        )


def in_band_failure(error: object) -> UpstreamFailure:
    """The failure that an `error` inside a stream tells of."""
    return UpstreamFailure(FailureKind.SERVER_ERROR, error_text(error)[0])


def error_text(error: object) -> tuple[str, str]:
    """Message and blamed field of an `error`, whatever its shape; bounded."""
    try:
        found = msgspec.convert(error, ErrorBody)
    except msgspec.ValidationError:
        return str(error)[:MAX_MESSAGE_CHARS], ""
    message = found.message or "an error without a message"
    return message[:MAX_MESSAGE_CHARS], (found.param or "").removeprefix("body.")


def _logprobs(shape: Logprobs) -> tuple[TokenLogprob, ...]:
    if shape.content is not None:
        return tuple(
            TokenLogprob(
                token=entry.token,
                logprob=entry.logprob,
                top=tuple((top.token, top.logprob) for top in entry.top_logprobs or ()),
            )
            for entry in shape.content
        )
    tokens, values = shape.tokens or [], shape.token_logprobs or []
    tops = shape.top_logprobs or [None] * len(tokens)
    return tuple(
        TokenLogprob(token=token, logprob=value, top=tuple((top or {}).items()))
        for token, value, top in zip(tokens, values, tops, strict=False)
        if value is not None  # the first token of an echoed prompt has none
    )
