"""Strikes and quarantines: who is refused, for how long, and within which bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from scheduler.blame.likeness import NewestByLike, constraint_like, like_of
from scheduler.blame.quarantine import Quarantine, QuarantineLimits, Strike
from scheduler.contract import Request
from tests.scheduler.requests_made import request

LIMITS = QuarantineLimits()


def made(fingerprint: int, *, tenant: str = "team", constraint: int = 0, key: str = "k") -> Request:
    plain = request(f"r{fingerprint}", tenant=tenant, key_id=key)
    return structs.replace(plain, fingerprint=fingerprint, constraint=constraint)


def strike(placement: str, now: float = 0.0, *, serves_others: bool = True) -> Strike:
    return Strike(
        placement=placement,
        request_id="r",
        at_s=now,
        outcome=1,
        serves_others=serves_others,
        detail="it broke",
    )


def convicted(quarantine: Quarantine, asked: Request, now: float = 0.0) -> bool:
    quarantine.record_strike(asked, strike("a", now), now)
    return bool(quarantine.record_strike(asked, strike("b", now), now))


def test_two_placements_that_serve_others_convict() -> None:
    quarantine, asked = Quarantine(), made(1)
    assert quarantine.record_strike(asked, strike("a"), 0.0) == ()
    assert quarantine.record_strike(asked, strike("a"), 1.0) == (), "one placement is no comparison"
    blamed = quarantine.record_strike(asked, strike("b", 1.0), 1.0)
    assert {known.placement for known in blamed} == {"a", "b"}
    found = quarantine.sentence(asked, 1.0)
    assert found is not None
    assert "a and b, which serve others; it broke" in found[1].reason
    assert quarantine.sentence(made(2), 1.0) is None
    assert quarantine.sentence(made(1, key="other"), 1.0) is None
    assert quarantine.sentence(asked, 1.0 + LIMITS.first_s) is None


def test_placements_that_fail_everybody_convict_nobody() -> None:
    quarantine, asked = Quarantine(), made(1)
    for name in "abcdefgh":
        assert quarantine.record_strike(asked, strike(name, serves_others=False), 0.0) == ()
    assert quarantine.sentence(asked, 0.0) is None


def test_old_strikes_and_a_success_are_forgotten() -> None:
    quarantine, asked = Quarantine(), made(1)
    quarantine.record_strike(asked, strike("a"), 0.0)
    late = LIMITS.strike_s + 1.0
    assert quarantine.record_strike(asked, strike("b", late), late) == ()
    quarantine.clear(asked)
    assert len(quarantine) == 0
    assert quarantine.record_strike(asked, strike("a", late), late) == ()


def test_a_second_quarantine_needs_one_strike_and_is_longer() -> None:
    quarantine, asked = Quarantine(), made(1)
    now = 0.0
    assert convicted(quarantine, asked, now)
    lengths = []
    for _ in range(6):
        found = quarantine.sentence(asked, now)
        assert found is not None
        lengths.append(found[1].until_s - now)
        now = found[1].until_s
        assert quarantine.record_strike(asked, strike("c", now), now)
    assert lengths == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    now += LIMITS.longest_s + LIMITS.memory_s
    assert quarantine.record_strike(asked, strike("c", now), now) == (), "it is forgotten"


def test_what_ran_already_when_the_quarantine_began_is_taken_back_as_well() -> None:
    quarantine, asked = Quarantine(), made(1)
    assert convicted(quarantine, asked)
    late = strike("c", 1.0)
    assert quarantine.record_strike(asked, late, 1.0) == (late,)


def test_a_constraint_is_refused_after_several_of_its_requests() -> None:
    quarantine = Quarantine()
    assert convicted(quarantine, made(1, constraint=9))
    assert quarantine.sentence(made(3, constraint=9), 0.0) is None
    assert convicted(quarantine, made(2, constraint=9))
    found = quarantine.sentence(made(3, constraint=9), 0.0)
    assert found is not None
    assert found[0] == constraint_like(made(3, constraint=9))
    assert quarantine.sentence(made(3, constraint=8), 0.0) is None
    assert quarantine.sentence(made(3), 0.0) is None
    quarantine.clear(made(4, constraint=9))
    assert quarantine.sentence(made(3, constraint=9), 0.0) is None, "one of them succeeded"


def test_one_tenant_does_not_displace_another() -> None:
    limits = QuarantineLimits(cases_per_tenant=4, cases=8)
    quarantine = Quarantine(limits)
    victim = made(1, tenant="victim")
    assert convicted(quarantine, victim)
    for number in range(2, 50):
        quarantine.record_strike(made(number), strike("a"), 0.0)
        quarantine.record_strike(made(number, tenant="other"), strike("a"), 0.0)
    assert quarantine.sentence(victim, 0.0) is not None
    assert len(quarantine) <= limits.cases


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from("xyz"), st.sampled_from("abc"), st.booleans())
    )
)
def test_the_table_is_bounded_and_its_size_exact(
    events: list[tuple[int, str, str, bool]],
) -> None:
    limits = QuarantineLimits(cases_per_tenant=5, cases=9)
    quarantine = Quarantine(limits)
    for number, tenant, placement, clears in events:
        asked = made(number, tenant=tenant, constraint=number % 3)
        if clears:
            quarantine.clear(asked)
        else:
            quarantine.record_strike(asked, strike(placement), 0.0)
        cases = quarantine._tenants
        assert len(quarantine) == sum(len(known) for known in cases.values()) <= limits.cases
        assert all(0 < len(known) <= limits.cases_per_tenant for known in cases.values())


def test_a_request_without_a_fingerprint_is_like_no_other() -> None:
    assert like_of(request("a")) != like_of(request("b"))
    assert like_of(made(1)) == like_of(structs.replace(made(1), request_id="again"))
    assert constraint_like(made(1)) is None


@given(st.lists(st.sampled_from("abc"), max_size=20), st.sampled_from("abc"))
def test_the_newest_event_of_others(likes: list[str], asked: str) -> None:
    newest = NewestByLike()
    for at_s, name in enumerate(likes):
        newest.record(like_of(request(name)), float(at_s))
    expected = max((at_s for at_s, name in enumerate(likes) if name != asked), default=None)
    found = newest.of_others(like_of(request(asked)))
    assert found == (float("-inf") if expected is None else pytest.approx(expected))
