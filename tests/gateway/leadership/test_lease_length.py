"""How long a lease to ask for follows from how promptly the database answers."""

from __future__ import annotations

from gateway.leadership.lease_length import (
    DOUBT,
    LONG_RENEWALS,
    LONGEST_DOUBT_S,
    PROMPT_ANSWERS,
    SHORT_RENEWALS,
    LeaseLength,
)

LONG_S, SHORT_S = 3.0, 1.5


def proven(now_s: float = 100.0) -> LeaseLength:
    length = LeaseLength(LONG_S)
    prompt(length, now_s)
    assert length.length_s(now_s) == SHORT_S
    return length


def prompt(length: LeaseLength, now_s: float) -> None:
    for _ in range(PROMPT_ANSWERS):
        length.answered(now_s - 0.01, now_s)


def test_an_unknown_database_has_the_long_lease() -> None:
    length = LeaseLength(LONG_S)
    for _ in range(PROMPT_ANSWERS):
        assert length.length_s(0.0) == LONG_S
        assert length.renewal_s(0.0) == SHORT_S / SHORT_RENEWALS
        length.answered(0.0, 0.01)
    assert length.length_s(0.01) == SHORT_S


def test_the_short_lease_is_half_of_the_long_one_and_not_below_its_bound() -> None:
    for longest_s, short_s in ((60.0, 30.0), (3.0, 1.5), (2.0, 1.5), (1.5, 1.5), (1.0, 1.0)):
        length = LeaseLength(longest_s)
        prompt(length, 100.0)
        assert length.length_s(100.0) == short_s
    assert length.renewal_s(100.0) == longest_s / LONG_RENEWALS


def test_a_slow_answer_puts_the_database_in_doubt_the_longer_the_slower_it_was() -> None:
    for late_s in (0.2, 0.8):
        length = proven()
        length.answered(101.0, 101.0 + late_s)
        until_s = 101.0 + late_s + DOUBT * late_s
        assert length.length_s(101.0 + late_s) == LONG_S
        assert length.renewal_s(101.0 + late_s) == LONG_S / LONG_RENEWALS
        prompt(length, until_s - 0.1)
        assert length.length_s(until_s - 0.1) == LONG_S
        assert length.length_s(until_s + 0.1) == SHORT_S


def test_a_failure_puts_it_in_doubt_once_it_answers_again() -> None:
    length = proven()
    length.failed()
    assert length.length_s(101.0) == LONG_S
    prompt(length, 101.5)
    assert length.length_s(101.5) == LONG_S
    assert length.length_s(101.5 + DOUBT * 1.5) == SHORT_S


def test_an_outage_longer_than_the_long_lease_says_nothing_of_the_length() -> None:
    length = proven(100.0)
    length.failed()
    length.answered(102.0, 103.1)
    assert length.length_s(103.1) == LONG_S
    prompt(length, 103.2)
    assert length.length_s(103.2) == SHORT_S


def test_each_warning_doubles_the_doubt_up_to_a_bound() -> None:
    length, now_s, doubt_s = proven(), 100.0, DOUBT * SHORT_S
    for _ in range(9):
        doubt_s = min(2 * doubt_s, LONGEST_DOUBT_S)
        length.was_too_short(now_s)
        prompt(length, now_s + doubt_s - 1.0)
        assert length.length_s(now_s + doubt_s - 1.0) == LONG_S
        now_s += doubt_s
        assert length.length_s(now_s) == SHORT_S
    assert doubt_s == LONGEST_DOUBT_S


def test_a_long_time_without_doubt_ends_what_warnings_have_doubled() -> None:
    for rest_s, multiple in ((LONGEST_DOUBT_S - 1.0, 2 * DOUBT), (LONGEST_DOUBT_S, DOUBT)):
        length = proven()
        length.was_too_short(100.0)
        now_s = 100.0 + 2 * DOUBT * SHORT_S + rest_s
        prompt(length, now_s - 1.0)
        length.answered(now_s - 0.2, now_s)
        prompt(length, now_s)
        until_s = now_s + multiple * 0.2
        assert length.length_s(until_s - 0.1) == LONG_S
        assert length.length_s(until_s + 0.1) == SHORT_S


def test_a_new_term_has_to_be_proven_again() -> None:
    length = proven()
    length.began()
    assert length.length_s(100.0) == LONG_S
