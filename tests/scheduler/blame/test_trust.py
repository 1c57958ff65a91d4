"""Whether a placement's rejection is believed without asking another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.blame.trust import Trust, TrustLimits

LIMITS = TrustLimits()


def test_a_placement_is_believed_once_another_has_confirmed_a_rejection() -> None:
    trust = Trust()
    assert not trust.believes("chat", 0.0)
    trust.record_answer("chat", 0.0)
    assert not trust.believes("chat", 1.0), "it may have been started without a flag since"
    assert trust.has_answered("chat", 1.0)
    trust.record_confirmed("chat", 1.0, is_proven=True)
    assert trust.believes("chat", 2.0)
    assert not trust.believes("chat+tools", 2.0), "a flag may be missing for these"
    assert not trust.believes("chat", LIMITS.proof_s + 2.0)


def test_many_rejections_in_a_row_are_compared_again_and_ever_more_seldom() -> None:
    trust = Trust()
    trust.record_answer("chat", 0.0)
    compared = 0
    for _ in range(100):
        if not trust.believes("chat", 1.0):
            compared += 1
            trust.record_rejection("chat")
            trust.record_confirmed("chat", 1.0, is_proven=True)
        else:
            trust.record_rejection("chat")
    assert 1 <= compared <= 10


def test_two_that_lack_the_same_flag_do_not_vouch_for_each_other_at_once() -> None:
    trust = Trust()
    for _ in range(LIMITS.unproven - 1):
        trust.record_confirmed("tools", 0.0, is_proven=False)
        assert not trust.believes("tools", 0.0)
    trust.record_confirmed("tools", 0.0, is_proven=False)
    assert trust.believes("tools", 0.0)
    assert not trust.believes("tools", LIMITS.unproven_proof_s + 1.0)
    assert not trust.has_answered("tools", 0.0)


def test_a_refuted_rejection_ends_the_trust() -> None:
    trust = Trust()
    trust.record_answer("chat", 0.0)
    trust.record_refuted("chat")
    assert not trust.believes("chat", 0.0)
    assert not trust.has_answered("chat", 0.0)


@given(st.lists(st.text(max_size=4), max_size=200))
def test_the_table_is_bounded(features: list[str]) -> None:
    trust = Trust()
    for name in features:
        trust.record_answer(name, 0.0)
    assert len(trust) <= LIMITS.features
