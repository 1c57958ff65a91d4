"""Finish words: what is known, in any spelling, and what becomes of the rest."""

from __future__ import annotations

import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import DeviationKind, FinishReason
from gateway.upstream.finish_words import finish_of


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("COMPLETE", FinishReason.STOP),
        ("endTurn", FinishReason.STOP),
        ("stopStringFound", FinishReason.STOP),
        ("FINISH_REASON_MAX_TOKENS", FinishReason.LENGTH),
        ("maxPredictedTokensReached", FinishReason.LENGTH),
        ("Max Tokens", FinishReason.LENGTH),
        ("content-filter", FinishReason.CONTENT_FILTER),
        ("FinishReason.SAFETY", FinishReason.CONTENT_FILTER),
    ],
)
def test_known_words_in_any_spelling(word: str, reason: FinishReason) -> None:
    finish = finish_of(word, has_calls=False)
    assert finish is not None
    assert (finish.reason, finish.deviation) == (reason, None)


@pytest.mark.parametrize("word", ["stop", "tool_calls", "tool_use", "end_turn", "odd"])
def test_an_answer_with_calls_ends_with_calls(word: str) -> None:
    finish = finish_of(word, has_calls=True)
    assert finish is not None
    assert finish.reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize("word", ["length", "content_filter"])
def test_a_cut_stays_a_cut_although_calls_came(word: str) -> None:
    finish = finish_of(word, has_calls=True)
    assert finish is not None
    assert finish.reason is not FinishReason.TOOL_CALLS


@pytest.mark.parametrize("word", ["odd", "x" * 10_000, "\U0001f600", "7"])
def test_an_unknown_word_ends_the_answer_and_is_told(word: str) -> None:
    finish = finish_of(word, has_calls=False)
    assert finish is not None
    assert finish.reason is FinishReason.STOP
    assert finish.deviation is not None
    assert finish.deviation.kind is DeviationKind.FINISH_WORD
    assert len(finish.deviation.detail) <= 40


@pytest.mark.parametrize("word", ["", " ", "null", "None", "NOT_FINISHED"])
def test_words_that_end_nothing(word: str) -> None:
    assert finish_of(word, has_calls=False) is None


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("error", FailureKind.SERVER_ERROR),
        ("networkError", FailureKind.SERVER_ERROR),
        ("TIMEOUT", FailureKind.SERVER_ERROR),
        ("insufficient_system_resource", FailureKind.BUSY),
        ("engine-overloaded", FailureKind.BUSY),
    ],
)
def test_words_that_are_failures(word: str, kind: FailureKind) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        finish_of(word, has_calls=False)
    assert caught.value.kind is kind
