"""Lenient reading: a field that is not understood costs that field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from gateway.upstream.anthropic import wire as anthropic_wire
from gateway.upstream.lenient import Fitting, NotJson, count, read_json
from gateway.upstream.openai import wire
from tests.fuzz.mutations import dumped, odd_values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5), (5.0, 5), ("5", 5), (" 5 ", 5), (0, 0), ("0", 0), (1e14, 10**14),
        (True, None), (-1, None), (-0.5, None), (float("inf"), None), (float("nan"), None),
        ("", None), ("x", None), ("-5", None), ("9" * 30, None), (None, None), ([5], None),
    ],
)  # fmt: skip
def test_counts(value: object, expected: int | None) -> None:
    assert count(value) == expected


def test_one_bad_field_does_not_cost_the_others() -> None:
    fitting = Fitting()
    value = {
        "model": 7,
        "choices": [None, {"delta": {"content": "a", "tool_calls": "x"}, "index": "0"}, "y"],
        "usage": {"prompt_tokens": "12", "completion_tokens": [], "total_tokens": 3.0},
    }
    frame = fitting.struct(wire.Frame, value)
    assert frame is not None
    assert frame.model is None
    assert frame.choices is not None
    (choice,) = frame.choices
    assert choice.delta is not None
    assert (choice.index, choice.delta.content) == (0, "a")
    assert frame.usage == wire.Usage(prompt_tokens=12, total_tokens=3)
    assert sorted(fitting.lost) == ["completion_tokens", "model", "tool_calls"]


def test_positions_in_parallel_lists_stay() -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": ["x", -1], "top_logprobs": [None, {"b": 7}]}
    read = Fitting().struct(wire.Logprobs, logprobs)
    assert read is not None
    assert read.token_logprobs == [None, -1.0]
    assert read.top_logprobs == [None, {"b": 7.0}]


def test_arguments_as_an_object_are_its_text() -> None:
    read = Fitting().struct(wire.Function, {"name": "f", "arguments": {"a": "é", "b": [None]}})
    assert read is not None
    assert read.arguments == '{"a": "é", "b": [null]}'


def test_what_json_has_not() -> None:
    value = read_json(b'{"a": NaN, "b": -Infinity, "c": "\\ud83d", "d": "\xff", "e": 1e999}')
    assert value == {"a": None, "b": None, "c": "\ud83d", "d": "\ufffd", "e": None}


@pytest.mark.parametrize("payload", [b"", b"{", b"upstream error", b"[" * 100_000, b"{'a': 1}"])
def test_what_is_no_json(payload: bytes) -> None:
    with pytest.raises(NotJson):
        read_json(payload)


@given(odd_values())
def test_any_value_fits_its_field_or_is_left_out(value: Any) -> None:
    usage = dict.fromkeys(("prompt_tokens", "completion_tokens"), value)
    payload = dumped({"id": value, "choices": [{"delta": value}, value], "usage": usage})
    try:
        read = read_json(payload)
    except NotJson:
        return
    frame = Fitting().struct(wire.Frame, read)
    assert frame is not None
    assert isinstance(frame.id, str | int | None)
    assert isinstance(frame.choices, list)
    assert all(isinstance(choice, wire.Choice) for choice in frame.choices)
    assert frame.usage is not None
    assert isinstance(frame.usage.prompt_tokens, int | None)
    assert (frame.usage.prompt_tokens or 0) >= 0
    event = Fitting().struct(anthropic_wire.Event, {"index": value, "delta": value})
    assert event is not None
    assert isinstance(event.index, int | None)
