"""The output items of a response, and the events that tell of them as they come.

Items follow one another: reasoning, a message, calls. Each is opened, filled and closed; only one
is open at a time, but for calls, whose pieces a server may mix.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gateway.domain.generation import ChoiceDelta, Message, Role, Signature, TokenLogprob, ToolCall
from gateway.doors.http.answers import encode
from gateway.doors.http.sse import event
from gateway.doors.openai.wire.logprobs import token_logprobs
from gateway.doors.openai.wire.reasoning_details import seal_thought

OPENING_EVENTS = 2
"""Events before the first item. They have the first numbers, but the first items may be known
before the stream begins."""


class _Open:
    """An item that is being filled. `key`: its kind, of a call with its index."""

    def __init__(self, key: tuple[str, int], place: int, item: dict[str, Any]) -> None:
        self.key = key
        self.place = place
        self.item = item
        self.text: list[str] = []
        self.logprobs: list[TokenLogprob] = []


class Output:
    """The items. `summarizes`: reasoning is told as a summary, not as content. `seals`: reasoning
    has `encrypted_content`."""

    def __init__(self, request_id: str, *, summarizes: bool, seals: bool) -> None:
        self.items: list[dict[str, Any]] = []
        """Of all items, as far as they are known."""
        self._request_id = request_id
        self._summarizes = summarizes
        self._seals = seals
        self._open: dict[tuple[str, int], _Open] = {}
        self._number = OPENING_EVENTS
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, ToolCall] = {}
        """Of the calls so far, all but their arguments."""
        self._arguments: dict[int, list[str]] = {}
        self._signatures: tuple[Signature, ...] = ()

    def event(self, kind: str, **fields: Any) -> bytes:
        """An event with the next number."""
        number, self._number = self._number, self._number + 1
        return numbered(kind, number, **fields)

    def add(self, delta: ChoiceDelta) -> bytes:
        """Adds output. Returns its events."""
        told = b""
        if delta.reasoning_text:
            told += self._reason(delta.reasoning_text)
        if delta.signatures:
            self._signatures += delta.signatures
            if ("reasoning", 0) not in self._open:
                told += self._sealed_alone(delta.signatures, None)
        if delta.text:
            told += self._say(delta)
        for piece in delta.tool_calls:
            told += self._call(piece)
        return told

    def close(self) -> bytes:
        """Closes what is open."""
        return b"".join(self._close(each) for each in [*self._open.values()])

    def message(self) -> Message:
        """The output as a message of the conversation."""
        calls = tuple(
            replace(call, arguments_json="".join(self._arguments[index]))
            for index, call in sorted(self._calls.items())
        )
        text = "".join(self._texts)
        return Message(
            role=Role.ASSISTANT,
            parts=(text,) if text or not calls else (),
            tool_calls=calls,
            reasoning_text="".join(self._reasoning),
            signatures=self._signatures,
        )

    def _reason(self, text: str) -> bytes:
        told, opened = self._opened(("reasoning", 0), {"type": "reasoning", "summary": []}, "rs")
        where = {"item_id": opened.item["id"], "output_index": opened.place}
        if not opened.text:
            kind = "summary_text" if self._summarizes else "reasoning_text"
            part = {"type": kind, "text": ""}
            if self._summarizes:
                added = "response.reasoning_summary_part.added"
                told += self.event(added, **where, summary_index=0, part=part)
            else:
                added = "response.content_part.added"
                told += self.event(added, **where, content_index=0, part=part)
        opened.text.append(text)
        self._reasoning.append(text)
        if self._summarizes:
            kind = "response.reasoning_summary_text.delta"
            return told + self.event(kind, **where, summary_index=0, delta=text)
        kind = "response.reasoning_text.delta"
        return told + self.event(kind, **where, content_index=0, delta=text)

    def _say(self, delta: ChoiceDelta) -> bytes:
        item = {"type": "message", "role": "assistant", "status": "in_progress", "content": []}
        told, opened = self._opened(("message", 0), item, "msg")
        where = {
            "item_id": opened.item["id"],
            "output_index": opened.place,
            "content_index": 0,
        }
        if not opened.text:
            part = _text_part("", [])
            told += self.event("response.content_part.added", **where, part=part)
        opened.text.append(delta.text)
        opened.logprobs += delta.logprobs
        self._texts.append(delta.text)
        logprobs = token_logprobs(delta.logprobs)
        kind = "response.output_text.delta"
        return told + self.event(kind, **where, delta=delta.text, logprobs=logprobs)

    def _call(self, piece: ToolCall) -> bytes:
        known = self._calls.get(piece.index)
        before = known or ToolCall(index=piece.index)
        call = self._calls[piece.index] = ToolCall(
            index=piece.index,
            id=before.id or piece.id,
            name=before.name or piece.name,
            signatures=before.signatures + piece.signatures,
        )
        self._arguments.setdefault(piece.index, []).append(piece.arguments_json)
        told = b""
        if piece.signatures:
            told += self._sealed_alone(piece.signatures, piece)
        item = {
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
        }
        more, opened = self._opened(("call", piece.index), item, "fc")
        told += more
        if piece.arguments_json:
            opened.text.append(piece.arguments_json)
            told += self.event(
                "response.function_call_arguments.delta",
                item_id=opened.item["id"],
                output_index=opened.place,
                delta=piece.arguments_json,
            )
        return told

    def _sealed_alone(self, signatures: tuple[Signature, ...], call: ToolCall | None) -> bytes:
        """An item of reasoning without text, whose signatures came without reasoning."""
        if not self._seals:
            return b""
        calls = () if call is None else (call,)
        data = seal_thought("", () if calls else signatures, calls)
        # It stands before the call that it belongs to. The calls that are open stay open.
        told, opened = self._opened(("sealed", 0), {"type": "reasoning", "summary": []}, "rs")
        opened.item["encrypted_content"] = data
        return told + self._close(opened)

    def _opened(
        self, key: tuple[str, int], item: dict[str, Any], prefix: str
    ) -> tuple[bytes, _Open]:
        """The open item, and the events of opening it if it was not open."""
        found = self._open.get(key)
        if found is not None:
            return b"", found
        told = b""
        for each in [*self._open.values()]:
            if each.key[0] != "call":
                told += self._close(each)
        place = len(self.items)
        made = {"id": f"{prefix}_{self._request_id}_{place}", **item}
        opened = self._open[key] = _Open(key, place, made)
        self.items.append(made)
        told += self.event("response.output_item.added", output_index=place, item=made)
        return told, opened

    def _close(self, opened: _Open) -> bytes:
        del self._open[opened.key]
        item, place, text = opened.item, opened.place, "".join(opened.text)
        where = {"item_id": item["id"], "output_index": place}
        told = b""
        match opened.key[0]:
            case "reasoning":
                told = self._close_reasoning(item, text, where)
            case "message":
                logprobs = token_logprobs(opened.logprobs)
                part = _text_part(text, logprobs)
                item |= {"status": "completed", "content": [part]}
                told = self.event(
                    "response.output_text.done",
                    **where,
                    content_index=0,
                    text=text,
                    logprobs=logprobs,
                ) + self.event("response.content_part.done", **where, content_index=0, part=part)
            case "call":
                call = self._calls[opened.key[1]]
                arguments = text or "{}"
                item |= {"status": "completed", "call_id": call.id, "name": call.name}
                item["arguments"] = arguments
                told = self.event(
                    "response.function_call_arguments.done",
                    **where,
                    name=call.name,
                    arguments=arguments,
                )
        return told + self.event("response.output_item.done", output_index=place, item=item)

    def _close_reasoning(self, item: dict[str, Any], text: str, where: dict[str, Any]) -> bytes:
        if self._seals:
            item["encrypted_content"] = seal_thought(text, self._signatures)
        if self._summarizes:
            part = {"type": "summary_text", "text": text}
            item["summary"] = [part]
            return self.event(
                "response.reasoning_summary_text.done", **where, summary_index=0, text=text
            ) + self.event(
                "response.reasoning_summary_part.done", **where, summary_index=0, part=part
            )
        part = {"type": "reasoning_text", "text": text}
        item["content"] = [part]
        return self.event(
            "response.reasoning_text.done", **where, content_index=0, text=text
        ) + self.event("response.content_part.done", **where, content_index=0, part=part)


def numbered(kind: str, number: int, **fields: Any) -> bytes:
    """An event with a number."""
    return event(kind, encode({"type": kind, "sequence_number": number, **fields}))


def _text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
