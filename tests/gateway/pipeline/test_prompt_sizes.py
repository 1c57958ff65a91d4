"""How long a prompt is taken to be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.generation import Chat, Generation, Image, Message, Role
from gateway.pipeline.prompt_sizes import FIRST_BYTES_PER_TOKEN, MOST_TENANTS, PromptSizes


def generation(source: Chat | str | tuple[int, ...]) -> Generation:
    return Generation(request_id="r", model="moe", input=source, max_output_tokens=9)


def test_prompt_sizes_are_estimated_and_learnt() -> None:
    sizes = PromptSizes()
    text = generation("word " * 400)
    assert sizes.estimate(text, "t") == round(2000 / FIRST_BYTES_PER_TOKEN)
    for _ in range(200):
        sizes.learn(text, "t", 1000)
    assert sizes.estimate(text, "t") == pytest.approx(1000, rel=0.01)
    assert sizes.estimate(generation((1, 2, 3)), "t") == 3
    sizes.learn(generation((1, 2, 3)), "t", 10_000)
    sizes.learn(generation("short"), "t", 10_000)
    assert sizes.estimate(text, "t") == pytest.approx(1000, rel=0.01), "neither tells of text"


def test_pictures_and_templates_count() -> None:
    picture = Image(url="https://example.org/a.png")
    plain = Message(role=Role.USER, parts=("word",))
    with_picture = Message(role=Role.USER, parts=("word", picture))
    sizes = PromptSizes()
    small = sizes.estimate(generation(Chat(messages=(plain,))), "t")
    assert small > 1
    assert sizes.estimate(generation(Chat(messages=(with_picture,))), "t") > small + 500


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 10_000)), max_size=60))
def test_no_tenants_texts_change_the_estimates_of_another(seen: list[tuple[bool, int]]) -> None:
    alone, beside = PromptSizes(), PromptSizes()
    text = generation("word " * 400)
    learnt = False
    for hostile, tokens in seen:
        if hostile:
            beside.learn(text, "hostile", tokens)
            continue
        learnt = True
        alone.learn(text, "honest", tokens)
        beside.learn(text, "honest", tokens)
        assert beside.estimate(text, "honest") == alone.estimate(text, "honest")
    if learnt:
        assert beside.estimate(text, "honest") == alone.estimate(text, "honest")


def test_a_tenant_without_a_ratio_takes_that_of_the_model_and_ratios_are_bounded() -> None:
    sizes = PromptSizes()
    text = generation("word " * 400)
    for number in range(MOST_TENANTS + 10):
        sizes.learn(text, f"t{number}", 1000)
    assert sizes.estimate(text, "new") == pytest.approx(1000, rel=0.01)
    assert len(sizes._of_tenant) == MOST_TENANTS
