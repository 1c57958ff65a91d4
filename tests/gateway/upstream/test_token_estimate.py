"""Estimates of token counts from bytes."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.domain.generation import Chat, Message, Role
from gateway.upstream.token_estimate import estimated_prompt_tokens
from tests.gateway.upstream.openai.test_body import GENERATION, HELLO, SCHEMA, WEATHER


def test_the_estimate_of_a_prompt() -> None:
    assert estimated_prompt_tokens(replace(GENERATION, input=(1, 2, 3))) == 3
    assert estimated_prompt_tokens(replace(GENERATION, input="é" * 8)) == 4
    assert estimated_prompt_tokens(GENERATION) == 2
    empty = Chat(messages=(Message(role=Role.ASSISTANT, parts=()),))
    assert estimated_prompt_tokens(replace(GENERATION, input=empty)) == 1
    with_tools = replace(HELLO, tools=(WEATHER,))
    assert estimated_prompt_tokens(replace(GENERATION, input=with_tools)) > len(SCHEMA) / 4
