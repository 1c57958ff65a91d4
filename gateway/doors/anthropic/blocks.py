"""Content blocks of an answer, as events of a stream of the Messages API or as whole blocks.

An answer of the API is a list of blocks, one after the other: a block is closed before the next one
begins. The deltas of the pipeline know no order beyond their own. Reasoning, text and the pieces of
tool calls open and close blocks as they come. Calls whose pieces come mixed are put in order: the
pieces of a call wait until the arguments of the call before it are complete.

Signatures of reasoning stand in the thinking block that they end. Where none is open, and before a
tool call that they belong to, they have a `redacted_thinking` block of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gateway.domain.generation import ChoiceDelta, Signature, ToolCall
from gateway.doors.anthropic.thinking_signatures import signature_text

Event = dict[str, Any]
"""One event of the stream: a JSON object with its `type`."""


class BlockEvents:
    """Turns the deltas of one choice into events of content blocks.

    `show_thinking`: thinking blocks hold the text of the reasoning; otherwise only its signatures.
    """

    def __init__(self, *, show_thinking: bool = True) -> None:
        self._show_thinking = show_thinking
        self._next = 0
        self._open = ""
        """Type of the open block; empty: none is open."""
        self._call: _OpenCall | None = None
        self._waiting: dict[int, list[ToolCall]] = {}
        """Pieces of calls behind the open one, by the index of the call."""
        self._signatures: list[Signature] = []

    def add(self, delta: ChoiceDelta) -> list[Event]:
        """Takes a delta. Returns its events."""
        events: list[Event] = []
        if delta.reasoning_text:
            events += self._begin("thinking", {"thinking": "", "signature": ""})
            if self._show_thinking:
                events.append(self._delta("thinking_delta", thinking=delta.reasoning_text))
        self._signatures += delta.signatures
        if delta.text:
            events += self._begin("text", {"text": "", "citations": None})
            events.append(self._delta("text_delta", text=delta.text))
        for piece in delta.tool_calls:
            events += self._add_piece(piece)
        return events

    def end(self) -> list[Event]:
        """Closes the last block. Returns its events."""
        events: list[Event] = []
        while self._waiting:
            events += self._close()
            events += self._next_call()
        events += self._close()
        return events + self._signed()

    def _add_piece(self, piece: ToolCall) -> list[Event]:
        if self._call is not None and self._call.index == piece.index:
            return self._add_arguments(piece.arguments_json)
        self._waiting.setdefault(piece.index, []).append(piece)
        if self._call is not None and not self._call.is_complete():
            return []
        return [*self._close(), *self._next_call()]

    def _next_call(self) -> list[Event]:
        """Opens the first call that waits. No block may be open."""
        index = min(self._waiting)
        pieces = self._waiting.pop(index)
        for piece in pieces:
            self._signatures += piece.signatures
        events = self._signed()
        head = {"id": pieces[0].id, "name": pieces[0].name, "input": {}}
        events += self._begin("tool_use", {**head, "caller": {"type": "direct"}})
        self._call = _OpenCall(index)
        for piece in pieces:
            events += self._add_arguments(piece.arguments_json)
        return events

    def _add_arguments(self, arguments: str) -> list[Event]:
        if not arguments or self._call is None:
            return []
        self._call.pieces.append(arguments)
        return [self._delta("input_json_delta", partial_json=arguments)]

    def _begin(self, kind: str, fields: Event) -> list[Event]:
        """Opens a block, unless one of this kind is open that goes on."""
        if self._open == kind and kind != "tool_use":
            return []
        events = self._close()
        if kind != "thinking":
            events += self._signed()
        self._open = kind
        block = {"type": kind, **fields}
        events.append({"type": "content_block_start", "index": self._next, "content_block": block})
        return events

    def _close(self) -> list[Event]:
        if not self._open:
            return []
        events: list[Event] = []
        if self._open == "thinking" and self._signatures:
            events.append(self._delta("signature_delta", signature=self._signature()))
        events.append({"type": "content_block_stop", "index": self._next})
        self._open, self._call = "", None
        self._next += 1
        return events

    def _signed(self) -> list[Event]:
        """A block for signatures that have no thinking block."""
        if not self._signatures:
            return []
        block = {"type": "redacted_thinking", "data": self._signature()}
        index = self._next
        self._next += 1
        return [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_stop", "index": index},
        ]

    def _signature(self) -> str:
        text = signature_text(self._signatures)
        self._signatures = []
        return text

    def _delta(self, kind: str, **fields: str) -> Event:
        delta = {"type": kind, **fields}
        return {"type": "content_block_delta", "index": self._next, "delta": delta}


class _OpenCall:
    """The tool call whose block is open."""

    __slots__ = ("index", "pieces")

    def __init__(self, index: int) -> None:
        self.index = index
        self.pieces: list[str] = []

    def is_complete(self) -> bool:
        """Whether the arguments are whole JSON, so that no piece follows."""
        try:
            msgspec.json.decode("".join(self.pieces))
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


def whole_blocks(choices: Sequence[ChoiceDelta], *, show_thinking: bool = True) -> list[Event]:
    """The content of a whole answer, from its one choice."""
    writer = BlockEvents(show_thinking=show_thinking)
    events = [event for choice in choices[:1] for event in writer.add(choice)]
    return _blocks_of([*events, *writer.end()])


def _blocks_of(events: Iterable[Event]) -> list[Event]:
    """Puts blocks together from their events."""
    blocks: list[Event] = []
    arguments: dict[int, list[str]] = {}
    for event in events:
        match event["type"]:
            case "content_block_start":
                blocks.append(event["content_block"])
            case "content_block_delta":
                block, delta = blocks[event["index"]], event["delta"]
                match delta["type"]:
                    case "input_json_delta":
                        arguments.setdefault(event["index"], []).append(delta["partial_json"])
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
    for index, pieces in arguments.items():
        blocks[index]["input"] = _arguments("".join(pieces))
    return blocks


def _arguments(text: str) -> Any:
    """Arguments as an object, as the API wants them. Text that is no JSON object is passed on under
    a name, so that the client can see what the model wrote."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"invalid_json": text}
