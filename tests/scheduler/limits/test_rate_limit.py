"""Limits of a key: what is admitted stays within them, whatever the order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.limits.rate_limit import RateLimiter, RateLimits, Refusal

NONE = RateLimits()


def test_without_limits_everything_is_admitted() -> None:
    limiter = RateLimiter()
    assert all(limiter.admit("k", NONE, 10**9, 0.0) is None for _ in range(100))
    assert limiter.running("k") == 100
    assert limiter.running("other") == 0


def test_requests_come_back_with_the_rate() -> None:
    limiter, limits = RateLimiter(), RateLimits(requests_per_minute=2)
    assert [limiter.admit("k", limits, 0, 5.0) for _ in range(2)] == [None, None]
    refusal = Refusal(limit="requests_per_minute", retry_after_s=30.0)
    assert limiter.admit("k", limits, 0, 5.0) == refusal
    assert limiter.admit("other", limits, 0, 5.0) is None
    assert limiter.admit("k", limits, 0, 34.9) is not None
    assert limiter.admit("k", limits, 0, 35.0) is None


def test_tokens_are_settled_with_what_was_used() -> None:
    limiter, limits = RateLimiter(), RateLimits(tokens_per_minute=600)
    assert limiter.admit("k", limits, 100, 0.0) is None
    limiter.settle("k", 100, 50, 0.0)  # 550 left
    assert limiter.admit("k", limits, 550, 0.0) is None
    limiter.settle("k", 550, 1150, 0.0)  # 600 owed
    assert limiter.admit("k", limits, 1, 0.0) == Refusal(
        limit="tokens_per_minute", retry_after_s=60.1
    )
    assert limiter.admit("k", limits, 1, 60.1) is None


def test_a_request_larger_than_the_limit_is_told_that_waiting_is_of_no_use() -> None:
    limits = RateLimits(tokens_per_minute=100, requests_per_minute=1)
    refusal = RateLimiter().admit("k", limits, 101, 0.0)
    assert refusal == Refusal(limit="tokens_per_minute", retry_after_s=None)


def test_slots_are_freed_once() -> None:
    limiter, limits = RateLimiter(), RateLimits(concurrent_requests=1)
    with pytest.raises(ValueError, match="no request to settle"):
        limiter.settle("k", 0, 0, 0.0)
    assert limiter.admit("k", limits, 10, 0.0) is None
    assert limiter.admit("k", limits, 10, 0.0) == Refusal(
        limit="concurrent_requests", retry_after_s=1.0
    )
    limiter.settle("k", 10, 10, 0.0)
    with pytest.raises(ValueError, match="no request to settle"):
        limiter.settle("k", 10, 10, 0.0)
    assert limiter.admit("k", limits, 10, 0.0) is None


def test_a_refusal_takes_nothing() -> None:
    limiter = RateLimiter()
    limits = RateLimits(requests_per_minute=2, tokens_per_minute=10)
    assert limiter.admit("k", limits, 10, 0.0) is None
    for _ in range(5):
        refusal = limiter.admit("k", limits, 5, 0.0)
        assert refusal == Refusal(limit="tokens_per_minute", retry_after_s=30.0)
    assert limiter.running("k") == 1
    assert limiter.admit("k", limits, 0, 0.0) is None


def test_a_limit_that_is_lowered_holds_at_once() -> None:
    limiter = RateLimiter()
    assert limiter.admit("k", RateLimits(requests_per_minute=100), 0, 0.0) is None
    lower = RateLimits(requests_per_minute=1)
    assert limiter.admit("k", lower, 0, 0.0) is None
    assert limiter.admit("k", lower, 0, 0.0) is not None


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    limiter, limits = RateLimiter(), RateLimits(requests_per_minute=1)
    assert limiter.admit("k", limits, 0, 100.0) is None
    assert limiter.admit("k", limits, 0, 0.0) is not None
    assert limiter.admit("k", limits, 0, 50.0) is not None


@pytest.mark.parametrize(("reserved", "used"), [(-1, 0), (0, -1)])
def test_negative_tokens_are_a_fault(reserved: int, used: int) -> None:
    limiter = RateLimiter()
    with pytest.raises(ValueError, match="-1 tokens"):
        limiter.admit("k", NONE, -1, 0.0)
    limiter.admit("k", NONE, 0, 0.0)
    with pytest.raises(ValueError, match="tokens"):
        limiter.settle("k", reserved, used, 0.0)
    assert limiter.running("k") == 1


Step = tuple[float, int, int]
steps = st.lists(
    st.tuples(
        st.floats(0, 40, allow_nan=False),  # seconds since the step before
        st.integers(-1, 60),  # tokens to admit; -1: settle the oldest
        st.integers(0, 90),  # tokens used, when settled
    ),
    max_size=60,
)


@given(steps, st.integers(1, 20), st.integers(1, 100), st.integers(1, 5))
def test_no_window_and_no_moment_exceeds_a_limit(
    trace: list[Step], requests: int, tokens: int, slots: int
) -> None:
    limiter = RateLimiter()
    limits = RateLimits(
        requests_per_minute=requests, tokens_per_minute=tokens, concurrent_requests=slots
    )
    now = 0.0
    running: list[int] = []
    charges: list[tuple[float, int, bool]] = []  # when, tokens, whether by an admission
    for wait_s, amount, used in trace:
        now += wait_s
        if amount >= 0:
            refusal = limiter.admit("k", limits, amount, now)
            if refusal is None:
                running.append(amount)
                charges.append((now, amount, True))
            elif refusal.retry_after_s is None:
                assert amount > tokens
            else:
                assert refusal.retry_after_s > 0
        elif running:
            reserved = running.pop(0)
            limiter.settle("k", reserved, used, now)
            charges.append((now, used - reserved, False))
        assert limiter.running("k") == len(running) <= slots
    for first, (start, _, _) in enumerate(charges):
        admitted = net_tokens = 0
        for at, amount, by_admission in charges[first:]:
            minutes = 1 + (at - start) / 60
            net_tokens += amount
            if by_admission:
                admitted += 1
                assert admitted <= requests * minutes + 1e-4
                assert net_tokens <= tokens * minutes + 1e-4


@given(st.integers(1, 1000), st.integers(1, 10**6), st.floats(0, 1e6), st.data())
def test_a_retry_at_the_time_told_is_admitted(
    requests: int, tokens: int, now: float, data: st.DataObject
) -> None:
    limiter = RateLimiter()
    limits = RateLimits(requests_per_minute=requests, tokens_per_minute=tokens)
    for _ in range(20):
        amount = data.draw(st.integers(0, tokens))
        refusal = limiter.admit("k", limits, amount, now)
        if refusal is not None:
            assert refusal.retry_after_s is not None
            now += refusal.retry_after_s
            assert limiter.admit("k", limits, amount, now) is None
        limiter.settle("k", amount, amount + data.draw(st.integers(0, tokens)), now)


def test_keys_that_left_the_configuration_leave_no_state() -> None:
    limiter, limits = RateLimiter(), RateLimits(requests_per_minute=1)
    for key in ("idle", "busy", "stays"):
        assert limiter.admit(key, limits, 0, 0.0) is None
    for key in ("idle", "stays"):
        limiter.settle(key, 0, 0, 0.0)
    limiter.retain({"stays"})
    assert set(limiter._accounts) == {"busy", "stays"}, "a request of `busy` still runs"
    limiter.settle("busy", 0, 0, 0.0)
    assert set(limiter._accounts) == {"stays"}
    assert limiter.admit("stays", limits, 0, 0.0) is not None, "what it used up stays used up"


Rpc = tuple[float, str, int]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 40, allow_nan=False),
            st.sampled_from(["generation", "rpc", "malformed", "end"]),
            st.integers(0, 60),
        ),
        max_size=60,
    ),
    st.integers(1, 10),
    st.integers(1, 3),
)
def test_rpcs_of_all_kinds_share_one_rate_and_the_slots(
    trace: list[Rpc], requests: int, slots: int
) -> None:
    """As door and claims call it: each RPC takes a request; generations and others a slot, too."""
    limiter = RateLimiter()
    limits = RateLimits(
        requests_per_minute=requests, tokens_per_minute=100, concurrent_requests=slots
    )
    now = 0.0
    taken: list[float] = []
    running: list[int] = []
    for wait_s, kind, tokens in trace:
        now += wait_s
        if kind == "end":
            if running:
                limiter.settle("k", running.pop(0), 0, now)
            continue
        refusal = limiter.take_request("k", limits, now)
        if refusal is not None:
            assert refusal.limit == "requests_per_minute"
            assert refusal.retry_after_s is not None
            assert 0 < refusal.retry_after_s <= 60
            continue
        taken.append(now)
        if kind == "generation":
            if limiter.admit("k", limits, tokens, now, requests=0) is None:
                running.append(tokens)
        elif kind == "rpc" and limiter.take_slot("k", limits) is None:
            running.append(0)
        assert limiter.running("k") == len(running) <= slots
    for first, start in enumerate(taken):
        for count, at in enumerate(taken[first:], start=1):
            assert count <= requests * (1 + (at - start) / 60) + 1e-4


def test_a_debt_of_tokens_refuses_no_rpc_that_generates_nothing() -> None:
    limiter, limits = RateLimiter(), RateLimits(tokens_per_minute=10, concurrent_requests=1)
    assert limiter.admit("k", limits, 10, 0.0, requests=0) is None
    limiter.settle("k", 10, 1000, 0.0)
    assert limiter.take_request("k", limits, 0.0) is None
    assert limiter.take_slot("k", limits) is None
    refused = Refusal(limit="concurrent_requests", retry_after_s=1.0)
    assert limiter.take_slot("k", limits) == refused
    limiter.settle("k", 0, 0, 0.0)
    assert limiter.take_slot("k", limits) is None
