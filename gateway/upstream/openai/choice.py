"""One choice of an OpenAI-shaped stream: frames in, new output out."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.domain.generation import (
    ChoiceDelta,
    Deviation,
    FinishReason,
    Signature,
    TokenLogprob,
    ToolCall,
)
from gateway.domain.request_bounds import MAX_STOP_BYTES
from gateway.upstream.finish_words import finish_of
from gateway.upstream.half_characters import HalfCharacters
from gateway.upstream.openai import wire
from gateway.upstream.openai.signatures import SignatureDecoder
from gateway.upstream.tool_calls import CallPiece, ToolCallNormaliser


class ChoiceDecoder:
    """Collects the frames of a choice; `pop_delta` returns the output since the last call.

    `origin`: of the signatures; empty: none are kept. `tool_names`: of the request's tools.

    Attributes:
        begun: a frame of the choice has come.
        reported_tokens: output tokens that the server reported with the last frame.
        reported_is_exact: whether that count is exact; else there are at least as many tokens as
            frames with content.
        frames: frames with content so far.
        output_bytes: UTF-8 bytes of text, reasoning and tool calls so far.
        deviation: an unknown finish word; None: none came.
    """

    __slots__ = (
        "_calls",
        "_halves",
        "_logprobs",
        "_matched_stop",
        "_new_calls",
        "_new_finish_reason",
        "_reasoning",
        "_signatures",
        "_text",
        "begun",
        "deviation",
        "finished",
        "frames",
        "has_new_output",
        "index",
        "output_bytes",
        "reported_is_exact",
        "reported_tokens",
    )

    def __init__(
        self, index: int, origin: str = "", tool_names: frozenset[str] = frozenset()
    ) -> None:
        self.index = index
        self.begun = self.finished = False
        self.has_new_output = False
        self.reported_tokens = 0
        self.reported_is_exact = False
        self.output_bytes = 0
        self.frames = 0
        self.deviation: Deviation | None = None
        self._new_finish_reason: FinishReason | None = None
        self._matched_stop = ""
        self._text = ""
        self._reasoning = ""
        self._calls = ToolCallNormaliser(tool_names)
        self._new_calls: list[ToolCall] = []
        self._signatures = SignatureDecoder(origin) if origin else None
        self._logprobs: tuple[TokenLogprob, ...] = ()
        self._halves: HalfCharacters | None = None

    @property
    def lost_signatures(self) -> bool:
        """Whether a signature exceeded a bound and was left out."""
        return self._signatures is not None and self._signatures.left_out

    @property
    def output_tokens(self) -> int:
        """Tokens so far: as the server counts them, or at least one a frame with content."""
        if self.reported_is_exact:
            return self.reported_tokens
        return max(self.reported_tokens, self.frames)

    def add(self, choice: wire.Choice, *, halves: bool = False) -> None:
        """Adds a frame. `halves`: its texts may begin or end with half a character. Raises
        UpstreamFailure on a finish word that is a failure."""
        self.begun = True
        has_content = False
        text = choice.text
        delta = choice.delta
        if choice.message is not None and not self.frames and (delta is None or _is_empty(delta)):
            delta = choice.message
        reasoning: str | None = None
        if delta is not None:
            # A refusal replaces content, so it counts as the model's output.
            content = delta.content or delta.refusal
            if content.__class__ is list:
                text, reasoning = _texts(content)
            elif content:
                text = content  # type: ignore[assignment]  # a list was handled above
            # Never two: servers that send two names send the same text under each.
            thought = delta.reasoning or delta.reasoning_content
            if not thought:
                thought = delta.reasoning_text or delta.thinking
            if thought:
                reasoning = thought if isinstance(thought, str) else "".join(_texts(thought))
            if delta.tool_calls or delta.function_call is not None:
                self._add_calls(delta)
                has_content = True
            if self._signatures is not None and self._signatures.add(delta):
                self.has_new_output = True
        if halves or self._halves is not None:
            self._halves = self._halves or HalfCharacters()
            text = self._halves.joined("text", text or "")
            reasoning = self._halves.joined("reasoning", reasoning or "")
            if not self._halves:
                self._halves = None
        if reasoning:
            self._reasoning += reasoning
            has_content = True
        if text:
            self._text += text
            has_content = True
        if choice.logprobs is not None:
            logprobs = _logprobs(choice.logprobs)
            self._logprobs += logprobs
            has_content = has_content or bool(logprobs)
        if has_content:
            self.frames += 1
            self.has_new_output = True
        if choice.finish_reason and not self.finished:
            # Some servers repeat it on later frames; the client gets it once.
            if isinstance(choice.stop_reason, str):
                self._matched_stop = choice.stop_reason[:MAX_STOP_BYTES]
            self._finish(choice.finish_reason)

    def cut(self) -> None:
        """Ends the choice, because it has more output than was asked for."""
        if not self.finished:
            self._end(FinishReason.LENGTH)

    def pop_delta(self) -> ChoiceDelta:
        """The output since the last call."""
        text, reasoning = self._text, self._reasoning
        signatures: tuple[Signature, ...] = ()
        if self._signatures is not None:
            signatures = self._signatures.pop(ended=self.finished)
        delta = ChoiceDelta(
            index=self.index,
            text=text,
            reasoning_text=reasoning,
            tool_calls=tuple(self._new_calls) if self._new_calls else (),
            logprobs=self._logprobs,
            finish_reason=self._new_finish_reason,
            signatures=signatures,
            matched_stop=self._matched_stop if self._new_finish_reason is not None else "",
        )
        if text:
            self.output_bytes += len(text) if text.isascii() else len(text.encode())
        if reasoning:
            self.output_bytes += len(reasoning.encode())
        if self._new_calls:
            for call in self._new_calls:
                self.output_bytes += len(call.name.encode()) + len(call.arguments_json.encode())
            self._new_calls = []
        self._text = self._reasoning = ""
        self._logprobs = ()
        self._new_finish_reason = None
        self.has_new_output = False
        return delta

    def _finish(self, word: str) -> None:
        finish = finish_of(word, has_calls=len(self._calls) > 0)
        if finish is not None:
            self.deviation = finish.deviation
            self._end(finish.reason)

    def _end(self, reason: FinishReason) -> None:
        if self._halves is not None:
            self._text += self._halves.rest("text")
            self._reasoning += self._halves.rest("reasoning")
        self._new_calls += self._calls.end(complete=reason is not FinishReason.LENGTH)
        self.finished = self.has_new_output = True
        self._new_finish_reason = reason

    def _add_calls(self, delta: wire.Delta) -> None:
        for call in delta.tool_calls or ():
            function = call.function or wire.Function(name=call.name, arguments=call.arguments)
            piece = CallPiece(
                index=call.index,
                id="" if call.id is None else str(call.id),
                name=function.name or "",
                arguments=function.arguments or "",
                signatures=() if self._signatures is None else self._signatures.of_call(call),
            )
            self._new_calls += self._calls.add(piece)
        if delta.function_call is not None:
            function = delta.function_call
            piece = CallPiece(index=0, name=function.name or "", arguments=function.arguments or "")
            self._new_calls += self._calls.add(piece)
        if self.finished:  # the finish word came first: nothing is held back any more
            self._new_calls += self._calls.end()


def _is_empty(delta: wire.Delta) -> bool:
    """Whether a delta has no output, such as one with the role alone."""
    return not (
        delta.content
        or delta.refusal
        or delta.reasoning
        or delta.reasoning_content
        or delta.reasoning_text
        or delta.thinking
        or delta.tool_calls
        or delta.function_call
    )


def _texts(parts: object) -> tuple[str, str]:
    """Text and reasoning of a list of parts."""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, wire.ContentPart):
            thinking = part.thinking or part.reasoning
            if thinking:
                thoughts.append(
                    thinking if isinstance(thinking, str) else "".join(_texts(thinking))
                )
            text = part.text or part.content or ""
            hidden = part.type in ("thinking", "reasoning", "reasoning_text")
            (thoughts if hidden else texts).append(text)
    return "".join(texts), "".join(thoughts)


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
