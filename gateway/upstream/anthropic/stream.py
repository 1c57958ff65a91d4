"""Events of an Anthropic-shaped stream into chunks: a state machine without I/O.

A stream is complete when a stop reason has come. Counts of tokens are running totals, reported at
the start (the prompt) and near the end (the output). While a stream runs, it has at least as many
output tokens as events with content. Blocks of unknown types (tools that run at the server) are
skipped with their pieces. An event that strict decoding refuses is read leniently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import (
    MAX_ID_CHARACTERS,
    ChoiceDelta,
    Chunk,
    Deviation,
    DeviationKind,
    FinishReason,
    ToolCall,
)
from gateway.domain.request_bounds import MAX_STOP_BYTES
from gateway.upstream.answer_bounds import UNBOUNDED, AnswerBounds, shortened
from gateway.upstream.anthropic import wire
from gateway.upstream.anthropic.signatures import ThinkingDecoder
from gateway.upstream.anthropic.usage import UsageCounts
from gateway.upstream.finish_words import finish_of
from gateway.upstream.half_characters import HalfCharacters
from gateway.upstream.http.failures import error_event, failure_of_event, is_blank
from gateway.upstream.lenient import Fitting, NotJson, is_heartbeat, read_json
from gateway.upstream.token_estimate import estimated_tokens
from gateway.upstream.tool_calls import CallPiece, ToolCallNormaliser
from gateway.upstream.usage_claims import Seen, judged

MAX_BLOCKS = 1 << 16
"""Most content blocks of one answer; a higher index is absurd."""
_READ_BLOCKS = frozenset({"", "text", "thinking", "redacted_thinking", "tool_use"})


class MessageDecoder:
    """Decodes one stream: `feed` it payloads until `ended` or the end of input, then call `end`.

    `prompt_tokens`: estimates them, called if no usage comes. `origin`: of the signatures; empty:
    none are kept. `bounds`: what the answer can hold at most.
    """

    last_event = b"message_stop"

    def __init__(
        self,
        prompt_tokens: Callable[[], int],
        *,
        origin: str = "",
        bounds: AnswerBounds = UNBOUNDED,
    ) -> None:
        self._prompt_tokens = prompt_tokens
        self._bounds = bounds
        self._ample_bytes = bounds.ample_bytes
        self._most_tokens = bounds.believed_output_tokens
        self._thinking = ThinkingDecoder(origin)
        self._counts = UsageCounts()
        self._failure: UpstreamFailure | None = None
        self._stopped = self._cut = False
        self._finish_reason: FinishReason | None = None
        self._matched_stop = ""
        self._finish_sent = False
        self._model = self._response_id = ""
        self._events_with_content = 0
        self._output_tokens = 0
        self._output_bytes = 0
        self._calls = ToolCallNormaliser(bounds.tool_names)
        self._call_blocks: set[int] = set()
        self._skipped_blocks: set[int] = set()
        self._halves: HalfCharacters | None = None
        self._deviations: list[Deviation] = []
        self._unread: str | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._pieces: list[ToolCall] = []

    @property
    def ended(self) -> bool:
        """Whether message_stop, a failure or too much output came, so that nothing that follows
        matters."""
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
                try:
                    self._add(wire.decode_event(payload), payload)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    self._add_leniently(payload)
            except UpstreamFailure as failure:
                if self._finish_reason is None:
                    self._failure = failure
                else:
                    self._stopped = True  # a complete answer is not destroyed by what follows
        return self._new_output()

    def end(self) -> Chunk:
        """The last chunk, with the usage. Raises UpstreamFailure: an error came, or the stream was
        cut."""
        if self._failure is not None:
            raise self._failure
        if self._finish_reason is None:
            message = "the stream was cut: no stop reason came"
            # Where nothing was understood, another server is what it is.
            odd = self._unread is not None and not self._events_with_content
            kind = FailureKind.PROTOCOL if odd else FailureKind.SERVER_ERROR
            raise UpstreamFailure(kind, message)
        least = max(self._events_with_content, estimated_tokens(self._output_bytes))
        seen = Seen(size_bytes=self._output_bytes, least_tokens=least, cut=self._cut)
        usage, refused = judged(self._counts.claim(), seen, self._bounds, self._prompt_tokens)
        unread = self._unread or ("signature" if self._thinking.left_out else None)
        if unread is not None:
            deviation = Deviation(kind=DeviationKind.UNREAD_FIELD, detail=unread)
            self._deviations.append(deviation)
        return Chunk(
            deltas=(),
            output_tokens=usage.completion_tokens,
            usage=usage,
            model=self._model,
            response_id=self._response_id,
            deviations=(*self._deviations, *refused),
        )

    def _add_leniently(self, payload: bytes) -> None:
        """Adds an event that strict decoding refuses. Raises UpstreamFailure: it is no event."""
        if is_heartbeat(payload):
            return
        fitting = Fitting()
        try:
            event = fitting.struct(wire.Event, read_json(payload))
        except NotJson:
            event = None
        if event is None:
            # The text may quote output: it is not passed on.
            message = "an event of the stream is not the JSON expected"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        if fitting.lost:
            self._unread = self._unread or fitting.lost[0]
        self._add(event, payload, halves=True)

    def _add(self, event: wire.Event, payload: bytes, *, halves: bool = False) -> None:
        match event.type or _kind_by_fields(event):
            case "content_block_delta" if event.delta is not None:
                self._add_delta(event.index or 0, event.delta, halves)
            case "content_block_start" if event.content_block is not None:
                self._start_block(event.index or 0, event.content_block, halves)
            case "content_block_stop":
                index = event.index or 0
                self._thinking.stop(index)
                if index in self._call_blocks:
                    self._pieces += self._calls.close(index)
            case "message_start" if isinstance(event.message, wire.Message):
                self._model = (event.message.model or "")[:MAX_ID_CHARACTERS]
                self._response_id = (event.message.id or "")[:MAX_ID_CHARACTERS]
                self._counts.update(event.message.usage, at_start=True)
            case "message_delta":
                self._counts.update(event.usage)
                if event.delta is not None and event.delta.stop_reason:
                    self._matched_stop = (event.delta.stop_sequence or "")[:MAX_STOP_BYTES]
                    self._finish(event.delta.stop_reason)
            case "message_stop":
                self._counts.update(event.usage)
                self._stopped = True
            case "error":
                raise error_event(payload)
            case _:
                # A ping, what later versions add, or an error in another shape.
                if event.error and not is_blank(event.error):
                    raise error_event(payload)
                if (failure := failure_of_event(payload)) is not None:
                    raise failure

    def _start_block(self, index: int, block: wire.ContentBlock, halves: bool) -> None:
        if not 0 <= index < MAX_BLOCKS:
            self._unread = self._unread or "index"
            return
        if block.type not in _READ_BLOCKS:
            self._skipped_blocks.add(index)
            return
        self._skipped_blocks.discard(index)
        self._thinking.start(index, block)
        if block.type == "tool_use":
            whole = bytes(block.input).strip()
            arguments = "" if whole in (b"", b"{}", b"null") else whole.decode("utf-8", "replace")
            name = block.name or ""
            piece = CallPiece(
                index=index,
                id=block.id or "",
                name=name,
                arguments=arguments,
                signatures=self._thinking.pop_inner(),
            )
            self._call_blocks.add(index)
            self._pieces += self._calls.add(piece)
            self._count_output(len(name) + len(arguments))
        elif block.text:
            self._add_text(block.text, halves)
        elif block.thinking:
            self._add_reasoning(block.thinking, halves)

    def _add_delta(self, index: int, delta: wire.Delta, halves: bool) -> None:
        if index in self._skipped_blocks:
            return
        self._thinking.add(index, delta)
        if delta.text:
            self._add_text(delta.text, halves)
        elif delta.thinking:
            self._add_reasoning(delta.thinking, halves)
        elif delta.partial_json:
            if index not in self._call_blocks:
                self._unread = self._unread or "partial_json"
                return
            piece = CallPiece(index=index, arguments=delta.partial_json)
            self._pieces += self._calls.add(piece)
            self._count_output(len(delta.partial_json.encode("utf-8", "replace")))

    def _add_text(self, text: str, halves: bool) -> None:
        if halves or self._halves is not None:
            text = self._joined("text", text)
        self._text.append(text)
        self._count_output(len(text.encode()))

    def _add_reasoning(self, text: str, halves: bool) -> None:
        if halves or self._halves is not None:
            text = self._joined("reasoning", text)
        self._reasoning.append(text)
        self._count_output(len(text.encode()))

    def _joined(self, name: str, text: str) -> str:
        self._halves = self._halves or HalfCharacters()
        return self._halves.joined(name, text)

    def _count_output(self, size_bytes: int) -> None:
        self._events_with_content += 1
        self._output_bytes += size_bytes
        if self._output_bytes <= self._ample_bytes or self._finish_reason is not None:
            return
        if self._bounds.is_too_much(self._output_bytes, self._events_with_content):
            self._stopped = self._cut = True
            self._end(FinishReason.LENGTH)

    def _finish(self, word: str) -> None:
        if self._finish_reason is not None:
            return
        finish = finish_of(word, has_calls=len(self._calls) > 0)
        if finish is None:
            return
        if finish.deviation is not None:
            self._deviations.append(finish.deviation)
        self._end(finish.reason)

    def _end(self, reason: FinishReason) -> None:
        if self._halves is not None:
            self._text.append(self._halves.rest("text"))
            self._reasoning.append(self._halves.rest("reasoning"))
        self._pieces += self._calls.end(complete=reason is not FinishReason.LENGTH)
        self._finish_reason = reason

    def _new_output(self) -> Chunk | None:
        # message_start counts tokens that have not come yet.
        counted = self._counts.output_tokens or 0 if self.started else 0
        seen = max(self._events_with_content, counted)
        output_tokens = max(self._output_tokens, min(seen, self._most_tokens))
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
                matched_stop=self._matched_stop if finish is not None else "",
            )
            excess = self._output_bytes - self._bounds.most_bytes
            if self._cut and excess > 0:
                delta = shortened(delta, excess)
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


def _kind_by_fields(event: wire.Event) -> str:
    """The type of an event that has none; empty: it has no field of one."""
    if event.content_block is not None:
        return "content_block_start"
    delta = event.delta
    if delta is None:
        return "message_start" if isinstance(event.message, wire.Message) else ""
    has_output = delta.text or delta.thinking or delta.partial_json or delta.signature
    return "content_block_delta" if has_output else "message_delta"
