"""Events of an Anthropic-shaped stream into chunks: a state machine without I/O.

A stream is complete when a stop reason has come. Counts of tokens are running totals, reported at
the start (the prompt) and near the end (the output). While a stream runs, it has at least as many
output tokens as events with content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from gateway.domain.failures import FailureKind, UpstreamFailure, one_line
from gateway.domain.generation import MAX_ID_CHARACTERS, ChoiceDelta, Chunk, FinishReason, ToolCall
from gateway.upstream.anthropic import wire
from gateway.upstream.anthropic.signatures import ThinkingDecoder
from gateway.upstream.anthropic.usage import UsageCounts
from gateway.upstream.http.failures import error_event, failure_of_event
from gateway.upstream.token_estimate import estimated_tokens
from scheduler.contract import Usage

_STOP_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
MAX_BLOCKS = 1 << 16
"""Most content blocks of one answer; a higher index is absurd."""


class MessageDecoder:
    """Decodes one stream: `feed` it payloads until `ended` or the end of input, then call `end`.

    `prompt_tokens`: estimates them, called if no usage comes. `origin`: of the signatures; empty:
    none are kept.
    """

    def __init__(self, prompt_tokens: Callable[[], int], *, origin: str = "") -> None:
        self._prompt_tokens = prompt_tokens
        self._thinking = ThinkingDecoder(origin)
        self._counts = UsageCounts()
        self._failure: UpstreamFailure | None = None
        self._stopped = False
        self._finish_reason: FinishReason | None = None
        self._finish_sent = False
        self._model = self._response_id = ""
        self._events_with_content = 0
        self._output_tokens = 0
        self._output_bytes = 0
        # Index of the tool call by block; blocks of calls that have no arguments yet.
        self._calls: dict[int, int] = {}
        self._bare_calls: set[int] = set()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._pieces: list[ToolCall] = []

    @property
    def ended(self) -> bool:
        """Whether message_stop or a failure came, so that nothing that follows matters."""
        return self._stopped or self._failure is not None

    @property
    def finished(self) -> bool:
        """Whether the stop reason has come, and no failure."""
        return self._failure is None and self._finish_reason is not None

    @property
    def started(self) -> bool:
        """Whether the first output has come."""
        return self._events_with_content > 0 or self._finish_reason is not None

    def feed(self, payloads: Iterable[bytes]) -> Chunk | None:
        """New output of these payloads, merged; None: there is none. `end` raises a failure."""
        for payload in payloads:
            if self.ended:
                break
            if not payload:
                continue
            try:
                event = wire.decode_event(payload)
                _check_error(event, payload)
                self._add(event)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                # The error's text may quote output: it is not passed on.
                message = "an event of the stream is not the JSON expected"
                self._failure = failure_of_event(payload) or UpstreamFailure(
                    FailureKind.PROTOCOL, message
                )
            except UpstreamFailure as failure:
                self._failure = failure
        return self._new_output()

    def end(self) -> Chunk:
        """The last chunk, with the usage. Raises UpstreamFailure: an error came, or the stream was
        cut."""
        if self._failure is not None:
            raise self._failure
        if self._finish_reason is None:
            message = "the stream was cut: no stop reason came"
            raise UpstreamFailure(FailureKind.SERVER_ERROR, message)
        usage = self._counts.usage()
        if usage is None:
            least = estimated_tokens(self._output_bytes)
            usage = Usage(
                prompt_tokens=self._counts.prompt_tokens or self._prompt_tokens(),
                completion_tokens=max(self._events_with_content, least),
                estimated=True,
            )
        return Chunk(
            deltas=(),
            output_tokens=usage.completion_tokens,
            usage=usage,
            model=self._model,
            response_id=self._response_id,
        )

    def _add(self, event: wire.Event) -> None:
        match event.type:
            case "content_block_delta" if event.delta is not None:
                self._add_delta(_index(event), event.delta)
            case "content_block_start" if event.content_block is not None:
                self._start_block(_index(event), event.content_block)
            case "message_start" if event.message is not None:
                self._model = event.message.model or ""
                self._response_id = (event.message.id or "")[:MAX_ID_CHARACTERS]
                self._counts.update(event.message.usage)
            case "message_delta":
                self._counts.update(event.usage)
                if event.delta is not None and event.delta.stop_reason:
                    self._finish(event.delta.stop_reason)
            case "content_block_stop":
                self._stop_block(event.index or 0)
            case "message_stop":
                self._stopped = True
            case _:
                pass  # ping, and what later versions add

    def _stop_block(self, index: int) -> None:
        self._thinking.stop(index)
        if index in self._bare_calls:
            # No piece of arguments has come, and an empty text would not be JSON.
            self._bare_calls.discard(index)
            self._pieces.append(ToolCall(index=self._calls[index], arguments_json="{}"))

    def _start_block(self, index: int, block: wire.ContentBlock) -> None:
        self._thinking.start(index, block)
        if block.type == "tool_use":
            call = self._calls.setdefault(index, len(self._calls))
            whole = bytes(block.input).strip()
            arguments = "" if whole in (b"", b"{}", b"null") else whole.decode()
            if not arguments:
                self._bare_calls.add(index)
            self._pieces.append(
                ToolCall(
                    index=call,
                    id=block.id or "",
                    name=block.name or "",
                    arguments_json=arguments,
                    signatures=self._thinking.pop_inner(),
                )
            )
            self._count_output(len(block.name or "") + len(arguments))
        elif block.text:
            self._add_text(block.text)
        elif block.thinking:
            self._add_reasoning(block.thinking)

    def _add_delta(self, index: int, delta: wire.Delta) -> None:
        self._thinking.add(index, delta)
        if delta.text:
            self._add_text(delta.text)
        elif delta.thinking:
            self._add_reasoning(delta.thinking)
        elif delta.partial_json:
            call = self._calls.get(index)
            if call is None:
                message = "a piece of a tool call that has not begun"
                raise UpstreamFailure(FailureKind.PROTOCOL, message)
            self._bare_calls.discard(index)
            self._pieces.append(ToolCall(index=call, arguments_json=delta.partial_json))
            self._count_output(len(delta.partial_json.encode()))

    def _add_text(self, text: str) -> None:
        self._text.append(text)
        self._count_output(len(text.encode()))

    def _add_reasoning(self, text: str) -> None:
        self._reasoning.append(text)
        self._count_output(len(text.encode()))

    def _count_output(self, size_bytes: int) -> None:
        self._events_with_content += 1
        self._output_bytes += size_bytes

    def _finish(self, name: str) -> None:
        reason = _STOP_REASONS.get(name)
        if reason is None:
            message = f"unknown stop_reason {one_line(name, 40)!r}"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        self._finish_reason = self._finish_reason or reason

    def _new_output(self) -> Chunk | None:
        # message_start counts tokens that have not come yet.
        counted = self._counts.output_tokens or 0 if self.started else 0
        output_tokens = max(self._output_tokens, self._events_with_content, counted)
        finish = None if self._finish_sent else self._finish_reason
        signatures = self._thinking.pop_leading(ended=finish is not None)
        if not (self._text or self._reasoning or self._pieces or finish or signatures):
            if output_tokens == self._output_tokens:
                return None
            deltas: tuple[ChoiceDelta, ...] = ()
        else:
            delta = ChoiceDelta(
                index=0,
                text="".join(self._text),
                reasoning_text="".join(self._reasoning),
                tool_calls=tuple(self._pieces),
                finish_reason=finish,
                signatures=signatures,
            )
            deltas = (delta,)
            self._text, self._reasoning, self._pieces = [], [], []
            self._finish_sent = self._finish_sent or finish is not None
        self._output_tokens = output_tokens
        return Chunk(
            deltas=deltas,
            output_tokens=output_tokens,
            model=self._model,
            response_id=self._response_id,
        )


def _index(event: wire.Event) -> int:
    index = event.index or 0
    if not 0 <= index < MAX_BLOCKS:
        raise UpstreamFailure(FailureKind.PROTOCOL, "a content block of an impossible index")
    return index


def _check_error(event: wire.Event, payload: bytes) -> None:
    """Raises the failure that an event tells: of type error, or in a shape of its own."""
    if event.type == "error" or event.error:
        raise error_event(payload)
    if not event.type and (found := failure_of_event(payload)):
        raise found
