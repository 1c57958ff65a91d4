"""One choice of an OpenAI-shaped stream: frames in, new output out."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.domain.failures import FailureKind, UpstreamFailure, one_line
from gateway.domain.generation import ChoiceDelta, FinishReason, TokenLogprob, ToolCall
from gateway.upstream.openai import wire
from gateway.upstream.openai.signatures import SignatureDecoder

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
MAX_TOOL_CALLS = 1 << 16
"""Most tool calls of one choice; a higher index is absurd, and might overflow its field."""


class ChoiceDecoder:
    """Collects the frames of a choice; `pop_delta` returns the output since the last call.
    `origin`: of the signatures; empty: none are kept.

    Attributes:
        reported_tokens: output tokens that the server reported with the last frame.
        reported_is_exact: whether that count is exact; else there are at least as many tokens as
            frames with content.
        output_bytes: UTF-8 bytes of text, reasoning and tool calls so far.
    """

    __slots__ = (
        "_calls",
        "_frames",
        "_logprobs",
        "_new_finish_reason",
        "_next_call_index",
        "_reasoning",
        "_signatures",
        "_text",
        "finished",
        "has_new_output",
        "index",
        "output_bytes",
        "reported_is_exact",
        "reported_tokens",
    )

    def __init__(self, index: int, origin: str = "") -> None:
        self.index = index
        self.finished = False
        self.has_new_output = False
        self.reported_tokens = 0
        self.reported_is_exact = False
        self.output_bytes = 0
        self._frames = 0
        self._next_call_index = 0
        self._new_finish_reason: FinishReason | None = None
        self._signatures = SignatureDecoder(origin)
        self._text = ""
        self._reasoning = ""
        self._calls: tuple[ToolCall, ...] = ()
        self._logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def output_tokens(self) -> int:
        """Tokens so far: as the server counts them, or at least one a frame with content."""
        if self.reported_is_exact:
            return self.reported_tokens
        return max(self.reported_tokens, self._frames)

    def add(self, choice: wire.Choice) -> None:
        """Adds a frame. Raises UpstreamFailure on a finish reason that is a failure."""
        has_content = False
        text = choice.text
        delta = choice.delta
        if delta is not None:
            # A refusal replaces content, so it counts as the model's output.
            text = delta.content or delta.refusal
            # Never both: servers that send both names send the same text under each.
            reasoning = delta.reasoning or delta.reasoning_content
            if reasoning:
                self._reasoning += reasoning
                has_content = True
            if delta.tool_calls:
                self._calls += tuple(self._tool_call(call) for call in delta.tool_calls)
                has_content = True
            if self._signatures.add(delta):
                self.has_new_output = True
        if text:
            self._text += text
            has_content = True
        if choice.logprobs is not None:
            logprobs = _logprobs(choice.logprobs)
            self._logprobs += logprobs
            has_content = has_content or bool(logprobs)
        if has_content:
            self._frames += 1
            self.has_new_output = True
        if choice.finish_reason:
            self._finish(choice.finish_reason)

    def pop_delta(self) -> ChoiceDelta:
        """The output since the last call."""
        delta = ChoiceDelta(
            index=self.index,
            text=self._text,
            reasoning_text=self._reasoning,
            tool_calls=self._calls,
            logprobs=self._logprobs,
            finish_reason=self._new_finish_reason,
            signatures=self._signatures.pop(ended=self.finished),
        )
        self.output_bytes += len(self._text.encode()) + len(self._reasoning.encode())
        for call in self._calls:
            self.output_bytes += len(call.name.encode()) + len(call.arguments_json.encode())
        self._text = self._reasoning = ""
        self._calls = ()
        self._logprobs = ()
        self._new_finish_reason = None
        self.has_new_output = False
        return delta

    def _finish(self, name: str) -> None:
        reason = _FINISH_REASONS.get(name)
        if reason is None:
            if name in ("abort", "error"):
                message = f"the engine ended the generation: {name}"
                raise UpstreamFailure(FailureKind.SERVER_ERROR, message)
            message = f"unknown finish_reason {one_line(name, 40)!r}"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        # Some servers repeat it on later frames; the client gets it once.
        if not self.finished:
            self.finished = self.has_new_output = True
            self._new_finish_reason = reason

    def _tool_call(self, call: wire.ToolCall) -> ToolCall:
        index = call.index
        if index is None:
            # Servers without indexes send whole calls, each with its id.
            index = self._next_call_index if call.id else max(0, self._next_call_index - 1)
        if not 0 <= index < MAX_TOOL_CALLS:
            raise UpstreamFailure(FailureKind.PROTOCOL, "a tool call of an impossible index")
        self._next_call_index = max(self._next_call_index, index + 1)
        function = call.function or wire.Function()
        return ToolCall(
            index=index,
            id=call.id or "",
            name=function.name or "",
            arguments_json=function.arguments or "",
            signatures=self._signatures.of_call(call),
        )


def _logprobs(logprobs: wire.Logprobs) -> tuple[TokenLogprob, ...]:
    """Log-probabilities of either shape, without entries that have no number."""
    found: list[TokenLogprob] = []
    if logprobs.content is not None:
        for entry in logprobs.content:
            if entry.token is not None and entry.logprob is not None:
                alternatives = [(top.token, top.logprob) for top in entry.top_logprobs or ()]
                found.append(_token_logprob(entry.token, entry.logprob, alternatives))
        return tuple(found)
    tokens, values = logprobs.tokens or (), logprobs.token_logprobs or ()
    tops = logprobs.top_logprobs or [None] * len(tokens)
    for token, value, by_token in zip(tokens, values, tops, strict=False):
        if value is not None:
            found.append(_token_logprob(token, value, (by_token or {}).items()))
    return tuple(found)


def _token_logprob(
    token: str, logprob: float, alternatives: Iterable[tuple[str | None, float | None]]
) -> TokenLogprob:
    top = tuple(
        (token_, value)
        for token_, value in alternatives
        if token_ is not None and value is not None
    )
    return TokenLogprob(token=token, logprob=logprob, top=top)
