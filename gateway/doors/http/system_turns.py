"""System messages at the beginning of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from gateway.domain.generation import Message, Role


def joined_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Joins the system messages at the beginning into one: templates of some models take only one,
    while clients send their own beside the user's. Those within the conversation stay."""
    first = [*takewhile(lambda each: each.role is Role.SYSTEM, messages)]
    texts = [part for each in first for part in each.parts if isinstance(part, str)]
    if len(first) < 2 or len(texts) != sum(len(each.parts) for each in first):
        return tuple(messages)
    return (Message(role=Role.SYSTEM, parts=("\n\n".join(texts),)), *messages[len(first) :])
