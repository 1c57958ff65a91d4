"""How long a prompt is taken to be."""

from __future__ import annotations

import pytest

from gateway.domain.generation import Chat, Generation, Image, Message, Role
from gateway.pipeline.prompt_sizes import FIRST_BYTES_PER_TOKEN, PromptSizes


def generation(source: Chat | str | tuple[int, ...]) -> Generation:
    return Generation(request_id="r", model="moe", input=source, max_output_tokens=9)


def test_prompt_sizes_are_estimated_and_learnt() -> None:
    sizes = PromptSizes()
    text = generation("word " * 400)
    assert sizes.estimate(text) == round(2000 / FIRST_BYTES_PER_TOKEN)
    for _ in range(200):
        sizes.learn(text, 1000)
    assert sizes.estimate(text) == pytest.approx(1000, rel=0.01)
    assert sizes.estimate(generation((1, 2, 3))) == 3
    sizes.learn(generation((1, 2, 3)), 10_000)
    sizes.learn(generation("short"), 10_000)
    assert sizes.estimate(text) == pytest.approx(1000, rel=0.01), "neither tells of text"


def test_pictures_and_templates_count() -> None:
    picture = Image(url="https://example.org/a.png")
    plain = Message(role=Role.USER, parts=("word",))
    with_picture = Message(role=Role.USER, parts=("word", picture))
    sizes = PromptSizes()
    small = sizes.estimate(generation(Chat(messages=(plain,))))
    assert small > 1
    assert sizes.estimate(generation(Chat(messages=(with_picture,)))) > small + 500
