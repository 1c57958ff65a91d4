"""Large arguments of tool calls: refused before they are decoded, if they surely are too many."""

from __future__ import annotations

import msgspec
import pytest

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.slices import finish
from gateway.doors.http.errors import HttpError
from gateway.doors.openai.chat.body import MessageBody
from gateway.doors.openai.chat.messages import convert_messages

MOST = 100_000
LIMITS = ElementLimitsConfig(arguments_bytes=MOST)


def converted(arguments: bytes) -> tuple[str, int]:
    """The arguments of a call, and the steps that converting them took."""
    call = b'{"id":"c","type":"function","function":{"name":"f","arguments":' + arguments + b"}}"
    body = msgspec.json.decode(
        b'{"role":"assistant","tool_calls":[' + call + b"]}", type=MessageBody
    )
    steps, work = 0, convert_messages([body], LIMITS)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value[0].tool_calls[0].arguments_json, steps
        steps += 1


@pytest.mark.parametrize("character", ["a", "é", "字", "😀"])
def test_every_character_counts_as_one(character: str) -> None:
    for text in (character.encode(), msgspec.json.encode(character)[1:-1], escaped(character)):
        assert converted(b'"' + text * MOST + b'"')[0] == character * MOST
        with pytest.raises(HttpError, match="arguments_bytes"):
            converted(b'"' + text * (MOST + 1) + b'"')


def escaped(character: str) -> bytes:
    units = character.encode("utf-16-be")
    return b"".join(b"\\u" + units[i : i + 2].hex().encode() for i in range(0, len(units), 2))


@pytest.mark.parametrize("frame", [b'"%b"', b'{"a":"%b"}'])
def test_much_too_large_arguments_are_not_decoded(frame: bytes) -> None:
    with pytest.raises(HttpError, match="arguments_bytes") as caught:
        converted(frame % (b"a" * (5 * MOST)))
    assert "check_arguments" in [entry.name for entry in caught.traceback]


def test_large_ones_take_several_steps() -> None:
    assert converted(b'"{}"') == ("{}", 1)
    assert converted(b'{"a":1}') == ('{"a":1}', 1)
    assert converted(b'"' + b"a" * 70_000 + b'"')[1] == 3
    assert finish(convert_messages([MessageBody(role="user", content="a")], LIMITS))
