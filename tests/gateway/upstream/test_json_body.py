"""Bodies that are encoded in steps are the bodies that an encoder makes at once."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.generation import Chat, Generation, Image, Message, Role, Tool
from gateway.domain.slices import finish
from gateway.upstream import json_body
from gateway.upstream.json_body import Base64Text, encoded, is_large
from gateway.upstream.vllm.body import vllm_body

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def made(prompt: Chat | str | tuple[int, ...]) -> Generation:
    return Generation(request_id="r", model="m", input=prompt, max_output_tokens=1)


LARGE = made("x" * 40_000)
SMALL = made("x")
TOOL = Tool(name="f", description="", parameters_json_schema="")


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_steps_make_what_the_encoder_makes(body: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_body, "STEP_CHARACTERS", 3)
        patch.setattr(json_body, "STEP_NUMBERS", 2)
        assert finish(encoded(body, LARGE)) == msgspec.json.encode(body)


@pytest.mark.parametrize("generation", [LARGE, SMALL])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 98_303, 98_304, 98_305, 300_000])
def test_images_become_base64(generation: Generation, size: int) -> None:
    data = (bytes(range(256)) * 2000)[:size]
    sent = json.loads(finish(encoded({"a": [Base64Text(data, 'data:"x",')]}, generation)))
    assert sent == {"a": ['data:"x",' + base64.b64encode(data).decode()]}


def test_raw_json_is_put_in_as_it_is() -> None:
    body = {"a": msgspec.Raw(b'{ "b": 1.50 }'), "c": (1, 2), "d": [], "e": {}}
    assert finish(encoded(body, LARGE)) == b'{"a":{ "b": 1.50 },"c":[1,2],"d":[],"e":{}}'


@pytest.mark.parametrize(
    "prompt",
    [
        "x" * 4_000_000,
        "\x01" * 1_000_000,
        tuple(range(500_000)),
        Chat(messages=(Message(role=Role.USER, parts=("x" * 4_000_000,)),)),
        Chat(messages=(Message(role=Role.USER, parts=(Image(data=b"x" * 4_000_000),)),)),
        Chat(messages=(Message(role=Role.USER, parts=("x",)),) * 2000),
    ],
    ids=["text", "escapes", "token ids", "chat", "image", "messages"],
)
def test_large_prompts_are_encoded_in_many_steps(prompt: Chat | str | tuple[int, ...]) -> None:
    generation = made(prompt)
    assert is_large(generation)
    assert sum(1 for _ in vllm_body(generation, "up")) >= 20


@pytest.mark.parametrize(
    ("prompt", "large"),
    [
        ("x" * 32_768, False),
        ("x" * 32_769, True),
        (tuple(range(4096)), False),
        (tuple(range(4097)), True),
        (Chat(messages=(Message(role=Role.USER, parts=("x" * 30_000,)),)), False),
        (Chat(messages=(Message(role=Role.USER, parts=("x" * 20_000,) * 2),)), True),
        (
            Chat(
                messages=(),
                tools=(Tool(name="f", description="", parameters_json_schema=""),) * 257,
            ),
            True,
        ),
    ],
)
def test_what_is_large(prompt: Chat | str | tuple[int, ...], large: bool) -> None:
    assert is_large(made(prompt)) == large
