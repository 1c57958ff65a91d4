"""Several choices of a request, by the plugin (without vLLM)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from moegate.vllm_plugin import choices as module
from moegate.vllm_plugin.choices import Choices
from moegate.vllm_plugin.shares import StepShares


@dataclass
class Stats:
    """As vLLM's `RequestStateStats`."""

    queued_ts: float
    scheduled_ts: float
    last_token_ts: float = 0.0
    num_preemptions: int = 0


def ran(shares: StepShares, *choices: Stats) -> None:
    """A prompt step of 0.03 s from 100 s on, and a decode step of 0.01 s."""
    for end_s, took_s, tokens in ((100.03, 0.03, 30), (100.04, 0.01, 0)):
        shares.outputs(end_s)
        for choice in choices:
            choice.last_token_ts = end_s
            if tokens:
                shares.answered(choice, tokens // len(choices))
        sequences = 0 if tokens else len(choices)
        shares.step(took_s=took_s, sequences=sequences, prefill_tokens=tokens)


@pytest.mark.parametrize("suffix", ["", "-0"])
def test_choices_have_the_sum_of_their_parts(suffix: str) -> None:
    shares, choices = StepShares(), Choices()
    both = [Stats(99.5 + n / 10, 100.0) for n in range(2)]
    for choice in both:
        choices.begun(f"cmpl-a{suffix}", "parent", 2, choice)
    ran(shares, *both)
    told = choices.ended("cmpl-a", shares)
    assert told is not None
    assert told.had == pytest.approx((0.03, 0.01))
    assert told.whole_s == pytest.approx(0.54)
    assert choices.ended("cmpl-a", shares) is None, "it is told once"


def test_nothing_is_told_while_a_choice_or_another_prompt_is_missing() -> None:
    shares, choices = StepShares(), Choices()
    one, two = Stats(99.0, 100.0), Stats(99.0, 100.0)
    choices.begun("cmpl-a-0", "first", 2, one)
    ran(shares, one)
    assert choices.ended("cmpl-a", shares) is None
    for prompt in range(2):
        choices.begun(f"cmpl-b-{prompt}", f"parent {prompt}", 1, one)
    assert choices.ended("cmpl-b", shares) is None
    choices.begun("cmpl-c", "parent", 2, one)
    choices.begun("cmpl-c", "parent", 2, two)
    assert choices.ended("cmpl-c", shares) is None, "of one nothing is known"


def test_an_id_that_is_used_again_and_clients_that_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    shares, choices = StepShares(), Choices()
    monkeypatch.setattr(module, "MOST_REQUESTS", 3)
    gone, one = Stats(99.0, 100.0), Stats(99.9, 100.0)
    choices.begun("chatcmpl-a", "gone", 2, gone)
    choices.begun("chatcmpl-a", "parent", 1, one)
    ran(shares, one)
    told = choices.ended("chatcmpl-a", shares)
    assert told is not None
    assert told.whole_s == pytest.approx(0.14)
    for number in range(10):
        choices.begun(f"chatcmpl-{number}", "parent", 2, gone)
    assert len(choices._requests) == 3
