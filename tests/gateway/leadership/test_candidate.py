"""A candidate takes, renews, loses and gives back the lease."""

from __future__ import annotations

from math import inf

from gateway.leadership.candidate import (
    LOOK_S,
    REST_S,
    RETRY_S,
    Ask,
    Candidate,
    Leader,
    Row,
)
from gateway.leadership.lease_length import PROMPT_ANSWERS, SHORT_RENEWALS

LEASE_S = 3.0
SHORT_S = 1.5
RENEWAL_S = SHORT_S / SHORT_RENEWALS
FREE = Row(leader=Leader(term=4, name="old", address="old:1", wire_version=1), left_s=-1.0)


def leader(term: int, name: str = "me") -> Leader:
    return Leader(term=term, name=name, address=f"{name}:1", wire_version=1)


def leading(asked_s: float = 10.0) -> Candidate:
    candidate = Candidate("me", LEASE_S)
    candidate.saw(FREE, 9.0)
    candidate.took(leader(5), asked_s, asked_s + 0.1)
    return candidate


def test_it_looks_first_and_takes_what_is_free() -> None:
    candidate = Candidate("me", LEASE_S)
    assert candidate.next(9.0) == (Ask.LOOK, -inf)
    candidate.saw(FREE, 9.0)
    assert candidate.leader(9.0) is None
    assert candidate.next(9.0) == (Ask.TAKE, 9.0)
    candidate.took(leader(5), 10.0, 10.2)
    assert candidate.term(10.2) == 5
    assert candidate.leader(10.2) == leader(5)


def test_the_lease_counts_from_before_the_question_and_ends_early() -> None:
    candidate = leading(asked_s=10.0)
    assert candidate.until_s == 10.0 + LEASE_S - 0.5
    assert candidate.term(candidate.until_s - 0.001) == 5
    assert candidate.term(candidate.until_s) == 0
    assert candidate.next(10.2) == (Ask.RENEW, 10.0 + RENEWAL_S)


def test_a_renewal_extends_it_from_before_its_question() -> None:
    candidate = leading()
    candidate.renewed(True, LEASE_S, 11.0, 11.1)
    assert candidate.until_s == 11.0 + LEASE_S - 0.5
    assert candidate.next(11.1) == (Ask.RENEW, 11.0 + RENEWAL_S)


def test_an_answer_that_comes_too_late_does_not_bring_it_back() -> None:
    candidate = leading()
    candidate.renewed(True, LEASE_S, 12.4, 12.6)  # the lease was over at 12.5
    assert candidate.term(12.6) == 0
    assert candidate.leader(12.6) is None
    assert candidate.next(12.6) == (Ask.RELEASE, -inf)
    assert candidate.given_back() == 5
    candidate.released(12.7)
    assert candidate.next(12.7) == (Ask.LOOK, 12.7)


def test_a_lease_that_was_taken_too_late_is_given_back() -> None:
    candidate = Candidate("me", LEASE_S)
    candidate.saw(FREE, 9.0)
    candidate.took(leader(5), 10.0, 13.0)
    assert candidate.term(13.0) == 0
    assert candidate.next(13.0)[0] is Ask.RELEASE


def test_another_leader_is_followed() -> None:
    candidate = Candidate("me", LEASE_S)
    candidate.saw(Row(leader=leader(7, "other"), left_s=2.0), 10.0)
    assert candidate.leader(10.0) == leader(7, "other")
    assert candidate.next(10.0) == (Ask.LOOK, 10.0 + LOOK_S)
    candidate.notified(10.4)
    assert candidate.next(10.4) == (Ask.LOOK, 10.4)


def test_it_looks_again_when_the_lease_of_another_ends() -> None:
    candidate = Candidate("me", LEASE_S)
    candidate.saw(Row(leader=leader(7, "other"), left_s=0.25), 10.0)
    assert candidate.next(10.0) == (Ask.LOOK, 10.25)


def test_another_one_was_faster() -> None:
    candidate = Candidate("me", LEASE_S)
    candidate.saw(FREE, 9.0)
    candidate.took(None, 9.0, 9.1)
    assert candidate.next(9.1) == (Ask.LOOK, 9.1)


def test_a_refused_renewal_ends_the_term() -> None:
    candidate = leading()
    candidate.renewed(False, LEASE_S, 11.0, 11.1)
    assert candidate.term(11.1) == 0
    assert candidate.next(11.1) == (Ask.LOOK, 11.1)


def test_failures_are_tried_again_and_change_nothing_before_the_end() -> None:
    candidate = leading()
    candidate.failed(11.5)
    assert candidate.term(11.5) == 5
    assert candidate.next(11.5) == (Ask.RENEW, 11.5 + RETRY_S)
    candidate.failed(12.6)
    assert candidate.term(12.6) == 0
    assert candidate.next(12.6) == (Ask.RELEASE, 12.6 + RETRY_S)
    candidate.failed(12.8)
    assert candidate.next(12.8) == (Ask.RELEASE, 12.8 + RETRY_S)


def test_a_lease_whose_answer_was_lost_is_given_back() -> None:
    candidate = Candidate("me", LEASE_S)
    candidate.saw(FREE, 9.0)
    candidate.failed(9.5)
    candidate.saw(Row(leader=leader(5), left_s=2.0), 10.0)
    assert candidate.leader(10.0) is None
    assert candidate.next(10.0) == (Ask.RELEASE, 10.0)
    assert candidate.given_back() == 5


def test_who_resigns_lets_others_try() -> None:
    candidate = leading()
    candidate.resign(11.0)
    assert candidate.term(11.0) == 0
    candidate.released(11.1)
    candidate.saw(FREE, 11.2)
    assert candidate.next(11.2) == (Ask.LOOK, 11.2 + LOOK_S)
    candidate.saw(FREE, 11.0 + REST_S)
    assert candidate.next(11.0 + REST_S)[0] is Ask.TAKE


def test_who_may_not_lead_only_looks() -> None:
    candidate = Candidate("me", LEASE_S)
    candidate.may_lead = False
    candidate.saw(FREE, 9.0)
    assert candidate.next(9.0) == (Ask.LOOK, 9.0 + LOOK_S)


def test_a_leader_whose_process_has_ended_need_not_be_waited_for() -> None:
    candidate = Candidate("me", LEASE_S)
    candidate.saw(Row(leader=leader(7, "other"), left_s=2.0), 10.0)
    candidate.found_gone(6)
    assert candidate.next(10.1)[0] is Ask.LOOK
    candidate.found_gone(7)
    assert candidate.gone() == 7
    assert candidate.next(10.1)[0] is Ask.TAKE
    candidate.took(None, 10.1, 10.2)  # its connection to the database stands
    assert candidate.next(10.2) == (Ask.LOOK, 10.2)
    assert candidate.gone() == 0


def test_a_leader_that_is_notified_renews_at_once() -> None:
    candidate = leading()
    candidate.notified(10.3)
    assert candidate.next(10.3) == (Ask.RENEW, 10.3)


def renew(candidate: Candidate, asked_s: float, took_s: float = 0.01) -> float:
    """Renews as `Leadership` does. Returns the length that was asked for."""
    lease_s = candidate.lease_s(asked_s)
    candidate.answered(asked_s, asked_s + took_s)
    candidate.renewed(True, lease_s, asked_s, asked_s + took_s)
    return lease_s


def prompt() -> tuple[Candidate, float]:
    """A leader whose lease is short. Returns when it has renewed it last, too."""
    candidate, now_s = leading(), 10.0
    for _ in range(PROMPT_ANSWERS + 8):
        _, now_s = candidate.next(now_s)
        lease_s = renew(candidate, now_s)
    assert lease_s == SHORT_S
    assert candidate.until_s == now_s + SHORT_S - 0.25
    return candidate, now_s


def test_prompt_answers_make_the_lease_short_and_never_shorten_one_that_runs() -> None:
    candidate, now_s, until_s = leading(), 10.0, 0.0
    lengths = []
    for _ in range(PROMPT_ANSWERS + 8):
        _, now_s = candidate.next(now_s)
        lengths.append(renew(candidate, now_s))
        assert candidate.until_s >= until_s
        until_s = candidate.until_s
    assert lengths == [LEASE_S] * PROMPT_ANSWERS + [SHORT_S] * 8
    assert until_s == now_s + SHORT_S - 0.25


def test_a_slow_answer_brings_the_long_lease_back() -> None:
    candidate, now_s = prompt()
    renew(candidate, now_s + 0.25, took_s=0.2)
    assert candidate.next(now_s + 0.5) == (Ask.RENEW, now_s + 0.25 + 1.0)
    assert renew(candidate, now_s + 1.25) == LEASE_S
    assert candidate.until_s == now_s + 1.25 + LEASE_S - 0.5


def test_a_new_term_begins_with_a_long_lease() -> None:
    candidate, now_s = prompt()
    candidate.resign(now_s, rest_s=0.0)
    candidate.released(now_s)
    candidate.saw(FREE, now_s)
    candidate.took(leader(6), now_s, now_s)
    assert candidate.until_s == now_s + LEASE_S - 0.5, "not until then of the term before"
    assert candidate.lease_s(now_s) == LEASE_S


def test_a_term_that_the_long_lease_would_have_kept_is_warned_of() -> None:
    candidate, now_s = prompt()
    late_s = now_s + 1.6
    candidate.answered(now_s + 0.25, late_s)
    candidate.renewed(True, SHORT_S, now_s + 0.25, late_s)
    assert candidate.next(late_s)[0] is Ask.RELEASE
    candidate.released(late_s)
    assert candidate.next(late_s) == (Ask.WARN, late_s)
    candidate.told(late_s)
    assert candidate.next(late_s) == (Ask.LOOK, late_s)


def test_a_term_that_no_lease_would_have_kept_is_not_warned_of() -> None:
    candidate, now_s = prompt()
    late_s = now_s + LEASE_S - 0.5
    assert candidate.next(late_s)[0] is Ask.RELEASE
    candidate.released(late_s)
    candidate.answered(late_s, late_s)
    assert candidate.next(late_s)[0] is Ask.LOOK


def test_who_is_warned_asks_for_long_leases() -> None:
    candidate, now_s = prompt()
    candidate.warned(now_s)
    assert candidate.lease_s(now_s) == LEASE_S
