"""Usage as a claim: what is believed, what counts in place of the rest, and what is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.generation import Chat, DeviationKind, Generation, Image, Message, Role
from gateway.upstream.answer_bounds import AnswerBounds, bounds_of
from gateway.upstream.token_estimate import MAX_TOKENS
from gateway.upstream.usage_claims import UNSEEN_PROMPT_TOKENS, Claim, Seen, judged, larger
from scheduler.contract import Usage

BOUNDS = AnswerBounds(
    max_output_tokens=100, choices=2, prompt_token_bound=lambda: 500, prompt_chars=lambda: 1000
)
SEEN = Seen(size_bytes=400, least_tokens=100)
ESTIMATE = 250


def judge(claim: Claim, seen: Seen = SEEN) -> tuple[Usage, list[DeviationKind]]:
    usage, deviations = judged(claim, seen, BOUNDS, lambda: ESTIMATE)
    return usage, [deviation.kind for deviation in deviations]


def test_a_plausible_claim_is_believed_with_its_parts() -> None:
    claim = Claim(300, 120, cached_tokens=200, reasoning_tokens=40, cache_write_tokens=90)
    usage = Usage(
        prompt_tokens=300,
        completion_tokens=120,
        cached_tokens=200,
        reasoning_tokens=40,
        cache_write_tokens=90,
    )
    assert judge(claim) == (usage, [])


@pytest.mark.parametrize(
    ("prompt", "counted", "told"),
    [
        (None, ESTIMATE, []),
        (0, ESTIMATE, [DeviationKind.USAGE_ZERO]),
        (500 + UNSEEN_PROMPT_TOKENS, 500 + UNSEEN_PROMPT_TOKENS, []),
        (501 + UNSEEN_PROMPT_TOKENS, 500, [DeviationKind.USAGE_TOO_MANY_PROMPT]),
        (MAX_TOKENS, 500, [DeviationKind.USAGE_TOO_MANY_PROMPT]),
        (MAX_TOKENS + 1, ESTIMATE, [DeviationKind.USAGE_TOO_MANY_PROMPT]),
        (5, ESTIMATE, [DeviationKind.USAGE_TOO_FEW_PROMPT]),
    ],
)
def test_the_prompt(prompt: int | None, counted: int, told: list[DeviationKind]) -> None:
    usage, kinds = judge(Claim(prompt, 120, cached_tokens=1))
    assert (usage.prompt_tokens, kinds) == (counted, told)
    assert usage.estimated == (counted != prompt)
    assert usage.cached_tokens == (None if usage.estimated else 1)


@pytest.mark.parametrize(
    ("output", "counted", "told"),
    [
        (None, 100, []),
        (0, 100, [DeviationKind.USAGE_ZERO]),
        (1, 100, [DeviationKind.USAGE_TOO_FEW_OUTPUT]),
        (200, 200, []),
        (BOUNDS.believed_output_tokens, BOUNDS.believed_output_tokens, []),
        (BOUNDS.believed_output_tokens + 1, 200, [DeviationKind.USAGE_TOO_MANY_OUTPUT]),
        (MAX_TOKENS, 200, [DeviationKind.USAGE_TOO_MANY_OUTPUT]),
        (MAX_TOKENS + 1, 100, [DeviationKind.USAGE_TOO_MANY_OUTPUT]),
    ],
)
def test_the_output(output: int | None, counted: int, told: list[DeviationKind]) -> None:
    usage, kinds = judge(Claim(300, output), Seen(size_bytes=400, least_tokens=100))
    assert (usage.completion_tokens, kinds) == (counted, told)
    assert usage.estimated == (counted != output)


def test_nothing_beside_nothing_is_a_count() -> None:
    usage, kinds = judge(Claim(300, 0), Seen(size_bytes=0, least_tokens=1))
    assert (usage.completion_tokens, usage.estimated, kinds) == (0, False, [])


def test_an_answer_that_was_cut_is_charged_as_requested() -> None:
    usage, kinds = judge(Claim(300, None), Seen(size_bytes=1 << 30, least_tokens=1 << 28, cut=True))
    assert (usage.completion_tokens, usage.estimated) == (200, True)
    assert kinds == [DeviationKind.OUTPUT_CUT]


counts = st.none() | st.integers(0, 1 << 45)


@given(st.builds(Claim, counts, counts, counts, counts, counts, counts), st.integers(0, 1 << 30))
def test_what_counts_is_bounded_whatever_is_claimed(claim: Claim, size_bytes: int) -> None:
    usage, _ = judge(claim, Seen(size_bytes=size_bytes, least_tokens=size_bytes // 4))
    assert 0 < usage.prompt_tokens <= 500 + UNSEEN_PROMPT_TOKENS
    assert 0 <= usage.completion_tokens <= BOUNDS.believed_output_tokens
    parts = (usage.cached_tokens or 0) + (usage.all_cache_write_tokens or 0)
    assert 0 <= parts <= usage.prompt_tokens
    assert 0 <= (usage.reasoning_tokens or 0) <= usage.completion_tokens


def test_running_totals() -> None:
    assert larger(None, None) is None
    assert larger(None, -1) is None
    assert larger(5, 0) == 5
    assert larger(5, 7) == 7
    assert larger(None, 1 << 80) == MAX_TOKENS + 1


def test_bounds_of_a_request() -> None:
    chat = Chat(messages=(Message(role=Role.USER, parts=("hallo", Image(data=b"x"))),))
    generation = Generation(request_id="r", model="m", input=chat, max_output_tokens=50, choices=2)
    bounds = bounds_of(generation)
    assert (bounds.output_tokens, bounds.prompt_chars()) == (100, 5)
    assert bounds.prompt_token_bound() > 4096, "an image has thousands of tokens"
    assert not bounds.is_too_much(bounds.ample_bytes, 1 << 20)
    assert bounds.is_too_much(bounds.most_bytes + 1, 1)
    # Sixty bytes a token: dashes and spaces. But not with more pieces than tokens.
    assert not bounds.is_too_much(3000, 50)
    assert bounds.is_too_much(3000, 2000)
