"""What vLLM gets beyond an OpenAI-shaped body, and the body of /tokenize."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.domain.generation import EngineHints
from gateway.domain.slices import finish
from gateway.upstream.vllm.body import tokenize_body, vllm_body
from tests.gateway.upstream.openai.test_body import GENERATION, HELLO, WEATHER


def body(tokens_per_chunk: int = 1, **fields: object) -> dict[str, Any]:
    made = replace(GENERATION, **fields)
    return msgspec.json.decode(finish(vllm_body(made, "up", tokens_per_chunk)), type=dict[str, Any])


def test_hints_reach_the_engine_only_where_they_are_set() -> None:
    extensions = {"cache_salt", "priority", "stream_interval", "continue_final_message"}
    assert not extensions & body().keys()
    sent = body(4, hints=EngineHints(cache_salt="salt", priority=7))
    assert (sent["cache_salt"], sent["priority"], sent["stream_interval"]) == ("salt", 7, 4)


def test_an_answer_is_continued_without_a_new_turn() -> None:
    sent = body(continues=True)
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


def test_the_usage_comes_with_every_event() -> None:
    assert body()["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_tokenize_takes_what_shapes_the_prompt() -> None:
    generation = replace(GENERATION, input=replace(HELLO, tools=(WEATHER,)))
    sent = msgspec.json.decode(finish(tokenize_body(generation, "up")))
    assert sent["messages"] == [{"role": "user", "content": "Hello"}]
    assert sent["tools"][0]["function"]["name"] == "weather"
    assert set(sent) == {"model", "messages", "tools"}
    raw = msgspec.json.decode(finish(tokenize_body(replace(GENERATION, input="Hello"), "up")))
    assert raw == {"model": "up", "prompt": "Hello"}
    with pytest.raises(ValueError, match="need no counting"):
        finish(tokenize_body(replace(GENERATION, input=(1,)), "up"))
