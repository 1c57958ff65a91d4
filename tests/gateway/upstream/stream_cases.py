"""Streams of servers that differ from their protocol, and what a client must get of each.

`recorded()` reads the table of streams from public reports. The modules `*_cases.py` beside this
one have others of the same kinds, which the functions here build.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

TABLE = Path(__file__).resolve().parents[2] / "golden" / "upstream_streams.jsonl"
Json = dict[str, Any]


class Right(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client must get.

    `calls`: pairs of name and arguments; `usage`: (prompt, completion), None: not checked;
    `least_usage`: the least of both; `cached`, `cache_write`: None: must be unknown, absent: not
    checked; `failure`: kind of the upstream's failure, after the text; `choices`: how many are
    asked for, of which `missing` do not come; `deviations`: kinds that are counted.
    """

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Any]] = []
    finish: str = "STOP"
    usage: tuple[int | None, int | None] | None = None
    least_usage: tuple[int, int] | None = None
    estimated: bool = False
    cached: int | msgspec.UnsetType | None = msgspec.UNSET
    cache_write: int | msgspec.UnsetType | None = msgspec.UNSET
    charged_nano_usd: int | None = None
    signatures: int | None = None
    failure: str = ""
    choices: int = 1
    missing: int = 0
    deviations: list[str] | None = None


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One stream. `frames`: the bytes of its body in pieces; a pair repeats a piece."""

    name: str
    dialect: str
    right: Right
    frames: list[str | tuple[str, int]]

    def pieces(self) -> tuple[bytes, ...]:
        """The pieces of the body."""
        found: list[bytes] = []
        for frame in self.frames:
            text, times = (frame, 1) if isinstance(frame, str) else frame
            found += [text.encode("utf-8", "surrogateescape")] * times
        return tuple(found)


def recorded() -> list[Case]:
    """The table."""
    return [msgspec.json.decode(line, type=Case) for line in TABLE.read_bytes().splitlines()]


def data(value: object) -> str:
    """An event of OpenAI's dialect."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"data: {text}\n\n"


def event(kind: str, **fields: Any) -> str:
    """An event of Anthropic's dialect."""
    return f"event: {kind}\n" + data({"type": kind, **fields})


def of(delta: Json, **fields: Any) -> str:
    """An event with one choice."""
    return data({"id": "x", "model": "up", "choices": [{"index": 0, "delta": delta, **fields}]})


def call(arguments: Any, name: str | None = None, **fields: Any) -> Json:
    """A piece of a tool call. `fields`: index, id and others; absent where they are not given."""
    function = {"name": name, "arguments": arguments}
    return {**fields, "function": {key: value for key, value in function.items() if value != "-"}}


def calls(*pieces: Json, **fields: Any) -> str:
    """An event with pieces of tool calls."""
    return of({"tool_calls": list(pieces)}, **fields)


def usage(prompt: Any = 10, completion: Any = 3, **fields: Any) -> str:
    """The event with the usage."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, **fields}
    return data({"choices": [], "usage": counts})


DONE = data("[DONE]")
U = (10, 3)


def openai(name: str, *frames: str, word: Any = "stop", end: bool = True, **right: Any) -> Case:
    """A case of OpenAI's dialect. `end`: with a finish word, usage and the end marker."""
    tail = [of({}, finish_reason=word), usage(), DONE] if end else []
    if end:
        right.setdefault("usage", U)
    return Case(name=name, dialect="openai", right=Right(**right), frames=[*frames, *tail])


def counted(name: str, counts: Json, text: str = "hello", **right: Any) -> Case:
    """A case of OpenAI's dialect about its usage."""
    frames = [of({"content": text}), of({}, finish_reason="stop")]
    frames += [data({"choices": [], "usage": counts}), DONE]
    return Case(name=name, dialect="openai", right=Right(text=text, **right), frames=[*frames])


def anthropic(
    name: str,
    *frames: str,
    start: Json | None = None,
    stop: str = "end_turn",
    end: Json | None = None,
    **right: Any,
) -> Case:
    """A case of Anthropic's dialect: `frames` between the head and the stop reason."""
    head: Json = {"id": "msg_1", "model": "claude", "role": "assistant", "content": []}
    if start != {}:
        head["usage"] = start or {"input_tokens": 10, "output_tokens": 1}
    delta: Json = {"delta": {"stop_reason": stop}}
    if end != {}:
        delta["usage"] = end or {"output_tokens": 3}
    if not right.get("failure"):
        right.setdefault("usage", U)
    tail = [event("message_delta", **delta), event("message_stop")]
    frames_ = [event("message_start", message=head), *frames, *tail]
    return Case(name=name, dialect="anthropic", right=Right(**right), frames=[*frames_])


def block(index: int, kind: str, *deltas: Json, **fields: Any) -> str:
    """A whole block of Anthropic's dialect."""
    parts = [event("content_block_start", index=index, content_block={"type": kind, **fields})]
    parts += [event("content_block_delta", index=index, delta=delta) for delta in deltas]
    return "".join([*parts, event("content_block_stop", index=index)])


def said(text: str, index: int = 0) -> str:
    """A block of text."""
    return block(index, "text", {"type": "text_delta", "text": text}, text="")
