"""The sliding window of a remote's limits per minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.limits.rate_limit import MINUTE_S, RateLimits
from scheduler.limits.send_window import SLOT_S, SendWindow

TEN = RateLimits(requests_per_minute=10)


def test_ten_a_minute_are_ten_in_the_first_minute_and_in_every_other() -> None:
    window = SendWindow()
    sent = []
    for tick in range(1800):
        now = tick * 0.1
        if window.refusal(TEN, 1, now) is None:
            window.take(1, now)
            sent.append(now)
    assert len([at_s for at_s in sent if at_s < 60.0]) == 10
    assert all(len([s for s in sent if at_s <= s < at_s + 60.0]) <= 10 for at_s in sent)
    assert len(sent) >= 20, "the next minute is used, too"


def test_a_refusal_says_when_to_come_again() -> None:
    window = SendWindow()
    for i in range(10):
        window.take(1, 5.0 + i)
    refusal = window.refusal(TEN, 1, 20.0)
    assert refusal is not None
    assert refusal.limit == "requests_per_minute"
    assert refusal.retry_after_s == pytest.approx(5.0 + 60.0 - 20.0)
    assert window.refusal(TEN, 1, 65.0) is None


def test_tokens_count_as_reserved_and_then_as_used() -> None:
    limits = RateLimits(tokens_per_minute=1000)
    window = SendWindow()
    window.take(900, 0.0)
    refusal = window.refusal(limits, 200, 1.0)
    assert refusal is not None
    assert refusal.limit == "tokens_per_minute"
    window.settle(0.0, 900, 100, 2.0)
    assert window.refusal(limits, 900, 2.0) is None
    assert window.refusal(limits, 901, 2.0) is not None


def test_a_request_that_ends_after_its_minute_changes_nothing() -> None:
    limits = RateLimits(tokens_per_minute=1000)
    window = SendWindow()
    window.take(900, 0.0)
    assert window.refusal(limits, 1000, 61.0) is None
    window.take(1000, 61.0)
    window.settle(0.0, 900, 100, 62.0)
    refusal = window.refusal(limits, 1, 62.0)
    assert refusal is not None


def test_a_request_that_is_larger_than_the_limit_never_passes() -> None:
    refusal = SendWindow().refusal(RateLimits(tokens_per_minute=10), 11, 0.0)
    assert refusal is not None
    assert refusal.retry_after_s is None


def test_without_limits_everything_passes() -> None:
    window = SendWindow()
    for _ in range(1000):
        window.take(1_000_000, 0.0)
    assert window.refusal(RateLimits(), 1_000_000, 0.0) is None


def test_the_state_does_not_grow_with_the_traffic() -> None:
    window = SendWindow()
    for tick in range(20_000):
        window.take(1, tick * 0.01)
    assert len(window._slots) <= (MINUTE_S + SLOT_S) / SLOT_S + 1


@given(
    gaps=st.lists(st.floats(min_value=0.0, max_value=20.0), max_size=120),
    tokens=st.lists(st.integers(min_value=0, max_value=60), min_size=120, max_size=120),
    used=st.lists(st.integers(min_value=0, max_value=60), min_size=120, max_size=120),
    requests_limit=st.integers(min_value=1, max_value=8),
    tokens_limit=st.integers(min_value=50, max_value=200),
    start_s=st.floats(min_value=0.0, max_value=1e6),
)
def test_never_more_than_the_limits_in_any_minute(
    gaps: list[float],
    tokens: list[int],
    used: list[int],
    requests_limit: int,
    tokens_limit: int,
    start_s: float,
) -> None:
    limits = RateLimits(requests_per_minute=requests_limit, tokens_per_minute=tokens_limit)
    window = SendWindow()
    now = start_s
    sent: list[tuple[float, int]] = []
    for gap, amount, spent in zip(gaps, tokens, used, strict=False):
        now += gap
        refusal = window.refusal(limits, amount, now)
        if refusal is None:
            window.take(amount, now)
            spent = min(spent, amount)
            window.settle(now, amount, spent, now)
            sent.append((now, spent))
        elif refusal.retry_after_s is not None:
            assert 0.0 < refusal.retry_after_s <= MINUTE_S + SLOT_S
            later = now + refusal.retry_after_s + 1e-6
            assert window_like(sent).refusal(limits, amount, later) is None
    for begin_s, _ in sent:
        inside = [amount for at_s, amount in sent if begin_s <= at_s < begin_s + MINUTE_S]
        assert len(inside) <= requests_limit
        assert sum(inside) <= tokens_limit


def window_like(sent: list[tuple[float, int]]) -> SendWindow:
    """A window in which the same was sent."""
    window = SendWindow()
    for at_s, amount in sent:
        window.take(amount, at_s)
    return window
