"""System messages at the beginning become one, and nothing else changes."""

from __future__ import annotations

from gateway.domain.generation import Image, Message, Role
from gateway.doors.http.system_turns import joined_system


def said(role: Role, *parts: str | Image) -> Message:
    return Message(role=role, parts=parts)


def test_those_at_the_beginning_are_joined() -> None:
    rules, more, user = said(Role.SYSTEM, "a", "b"), said(Role.SYSTEM, "c"), said(Role.USER, "d")
    late = said(Role.SYSTEM, "e")
    assert joined_system([rules, more, user, late]) == (
        said(Role.SYSTEM, "a\n\nb\n\nc"),
        user,
        late,
    )


def test_one_alone_and_one_with_an_image_stay_as_they_are() -> None:
    user, rules = said(Role.USER, "d"), said(Role.SYSTEM, "a", "b")
    picture = said(Role.SYSTEM, Image(url="https://example.com/a.png"))
    for messages in ([user], [rules, user], [rules, picture, user], []):
        assert joined_system(messages) == tuple(messages)
