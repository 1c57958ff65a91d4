"""When the outcomes of a placement condemn it, and when they show that it serves others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from scheduler.blame.evidence import Evidence, EvidenceLimits
from scheduler.blame.likeness import like_of
from scheduler.contract import Request
from tests.scheduler.requests_made import request

LIMITS = EvidenceLimits()


def made(name: str, key: str = "k", tenant: str = "t", features: str = "chat") -> Request:
    return structs.replace(request(name, key_id=key, tenant=tenant), features=features)


def fail(evidence: Evidence, count: int, key: str, tenant: str = "t", now: float = 0.0) -> None:
    for number in range(count):
        evidence.record_failure(made(f"{key}{number}", key, tenant), "it broke", now)


def test_one_key_alone_does_not_condemn_however_often_it_fails() -> None:
    evidence = Evidence()
    fail(evidence, 100, "k1")
    assert not evidence.condemns(0.0)
    fail(evidence, 2, "k2")
    assert evidence.condemns(0.0), "another key fails as well"


def test_one_tenant_alone_does_not_condemn_while_another_is_served() -> None:
    evidence = Evidence()
    evidence.record_success(made("ok", "honest", "other"), 0.0)
    for key in ("k1", "k2", "k3", "k4"):
        fail(evidence, 50, key)
    assert not evidence.condemns(0.0)
    fail(evidence, 2, "honest", "other")
    assert evidence.condemns(0.0)


def test_few_failures_among_many_successes_do_not_condemn() -> None:
    evidence = Evidence()
    for key in ("k1", "k2", "k3", "k4", "k5", "k6"):
        fail(evidence, 1, key)
        for number in range(2):
            evidence.record_success(made(f"{key}ok{number}", key), 0.0)
    assert not evidence.condemns(0.0)


def test_what_another_placement_takes_condemns_even_with_one_key() -> None:
    evidence = Evidence()
    for number in range(LIMITS.failures):
        assert not evidence.condemns(0.0)
        asked = made(f"r{number}")
        evidence.record_failure(asked, "it broke", 0.0)
        assert evidence.refute(asked) is not None
    assert evidence.condemns(0.0)
    assert not evidence.condemns(LIMITS.window_s + 1.0)


def test_two_refuted_rejections_are_enough() -> None:
    evidence = Evidence()
    for number in range(2):
        asked = made(f"r{number}")
        evidence.record_rejection(asked, "400", 0.0)
        assert not evidence.condemns(0.0)
        evidence.refute(asked)
    assert evidence.condemns(0.0)


def test_a_missing_feature_does_not_condemn_a_placement_that_serves_the_rest() -> None:
    evidence = Evidence()
    evidence.record_success(made("plain"), 0.0)
    for number in range(8):
        asked = made(f"r{number}", features="chat+tools")
        evidence.record_rejection(asked, "400", 1.0)
        evidence.refute(asked)
    assert not evidence.condemns(1.0)


def test_a_failure_that_is_taken_back_counts_no_more() -> None:
    evidence = Evidence()
    fail(evidence, 3, "k1")
    fail(evidence, 2, "k2")
    assert evidence.condemns(0.0)
    evidence.take_back(made("like it", "k2"), "k20")
    assert not evidence.condemns(0.0)


def serves(evidence: Evidence, asked: Request, started_s: float, now: float) -> bool:
    return evidence.serves_others(like_of(asked), started_s, now, lambda _: False)


def test_a_placement_serves_others_if_it_answered_one_and_failed_none_since() -> None:
    evidence, asked, other = Evidence(), made("asked"), made("other", "k2")
    assert not serves(evidence, asked, 0.0, 0.0)
    evidence.record_success(asked, 1.0)
    assert not serves(evidence, asked, 2.0, 2.0), "its own success says nothing of others"
    evidence.record_success(other, 2.0)
    assert serves(evidence, asked, 3.0, 3.0)
    assert not serves(evidence, asked, 3.0, 2.0 + LIMITS.serves_s + 1.0)
    evidence.record_failure(made("third"), "", 2.5)
    assert not serves(evidence, asked, 3.0, 3.0), "it failed another one before"
    assert evidence.serves_others(like_of(asked), 3.0, 3.0, lambda _: True)
    assert serves(evidence, asked, 2.2, 3.0), "that one may have failed for this one's sake"


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from("abc"), st.booleans(), st.booleans()),
        max_size=400,
    )
)
def test_the_evidence_is_bounded(events: list[tuple[int, str, bool, bool]]) -> None:
    evidence = Evidence(EvidenceLimits(keys=16, kinds_per_key=2))
    for number, tenant, ok, refuted in events:
        asked = made(f"r{number}", f"k{number % 40}", tenant, f"f{number}")
        if ok:
            evidence.record_success(asked, 0.0)
        else:
            evidence.record_failure(asked, "", 0.0)
        if refuted:
            evidence.refute(asked)
    assert len(evidence) <= 16 * 2 * LIMITS.kept


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_one_key_never_condemns_what_serves_another_tenant(events: list[tuple[int, bool]]) -> None:
    """Whatever the order of one key's failures, refuted or not, and of another tenant's answers."""
    evidence = Evidence()
    evidence.record_success(made("first", "honest", "other"), 0.0)
    for at, (number, fails) in enumerate(events):
        now = at * 0.1
        if fails:
            asked = made(f"r{at}", "k", "t", features=f"f{number}")
            evidence.record_failure(asked, "it broke", now)
            if number % 2:
                evidence.refute(asked)
        else:
            evidence.record_success(made(f"ok{at}", "honest", "other"), now)
        assert not evidence.condemns(now)
