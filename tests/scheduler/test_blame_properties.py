"""Who is at fault, for random fleets: placements that fail in any way, tenants that send poison.

Each request runs to its end before the next one comes, so that chance decides only what is drawn.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from scheduler.blame.quarantine import DEFAULT_QUARANTINE
from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    Fault,
    RefusalReason,
    Refuse,
    Request,
    Start,
)
from scheduler.core import Scheduler
from scheduler.limits.breaker import BreakerPhase
from tests.scheduler.reload_made import idle, local, scheduler, state_of
from tests.scheduler.requests_made import request

NAMES = ("a", "b", "c", "d", "e", "f")
STEP_S = 0.5


class Way(enum.StrEnum):
    """How an attempt ends."""

    OK = "ok"
    BREAKS = "breaks"
    """An error or a cut."""
    REJECTS = "rejects"
    """400, or an empty answer that is compared."""
    EMPTY = "empty"
    ABSENT = "absent"


FAULTY = st.sampled_from([Way.BREAKS, Way.REJECTS, Way.EMPTY, Way.ABSENT])
HARMFUL = st.sampled_from([Way.BREAKS, Way.REJECTS])


@dataclass
class Fleet:
    """A scheduler before placements of which some are `faulty`. `hurt`: when and where requests
    with this fingerprint failed by an error."""

    core: Scheduler
    faulty: dict[str, Way]
    now: float = 0.0
    asked: list[str] = field(default_factory=list)
    hurt: dict[int, list[tuple[float, str]]] = field(default_factory=dict)
    number: int = 0

    def send(self, tenant: str, way: Way, fingerprint: int = 0, **fields: Any) -> Way | Refuse:
        """Sends one request, which healthy placements end in this way, and follows it to its
        end."""
        self.now += STEP_S
        self.number += 1
        name = f"r{self.number}"
        made = request(name, arrival_s=self.now, tenant=tenant, key_id=f"{tenant}-key")
        asked = structs.replace(made, fingerprint=fingerprint or 1000 + self.number, **fields)
        actions = self.core.submit(asked, self.now)
        while True:
            [action] = [action for action in actions if action.request_id == name]
            if isinstance(action, Refuse):
                idle(self.core)
                return action
            assert isinstance(action, Start), action
            end, meant = self._end(action, asked, way)
            actions = self.core.handle(end, self.now)
            if end.outcome is not AttemptOutcome.RETRYABLE:
                idle(self.core)
                return meant

    def _end(self, start: Start, asked: Request, way: Way) -> tuple[AttemptEnded, Way]:
        self.asked.append(start.placement)
        way = self.faulty.get(start.placement, way)
        outcome, fault, tokens = AttemptOutcome.RETRYABLE, Fault.PLACEMENT, None
        match way:
            case Way.OK:
                outcome, fault, tokens = AttemptOutcome.OK, Fault.NONE, 10
            case Way.BREAKS:
                if start.placement not in self.faulty:
                    where = self.hurt.setdefault(asked.fingerprint, [])
                    where.append((self.now, start.placement))
            case Way.ABSENT:
                fault = Fault.ABSENT
            case Way.REJECTS:
                outcome = AttemptOutcome.RETRYABLE if start.compare else AttemptOutcome.FAILED
                fault = Fault.REJECTED
            case Way.EMPTY:
                if start.compare:
                    fault = Fault.REJECTED
                else:
                    outcome, fault, tokens = AttemptOutcome.OK, Fault.NONE, 0
        end = AttemptEnded(
            request_id=asked.request_id,
            attempt=start.attempt,
            outcome=outcome,
            detail=way.value,
            fault=fault,
            output_tokens=tokens,
        )
        return end, way

    def phase(self, name: str) -> BreakerPhase:
        return self.core.admission_report(name, self.now).phase


def fleet(size: int, faulty: dict[str, Way] | None = None) -> Fleet:
    placements = [local(name, slots=8) for name in NAMES[:size]]
    return Fleet(scheduler(*placements), faulty or {})


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(3, 6),
    bad=st.sampled_from(NAMES[:3]),
    way=FAULTY,
    tenants=st.integers(1, 4),
    order=st.lists(st.integers(0, 3), min_size=40, max_size=60),
)
def test_a_faulty_placement_leaves_service_and_honest_requests_are_served(
    size: int, bad: str, way: Way, tenants: int, order: list[int]
) -> None:
    made = fleet(size, {bad: way})
    for tenant in order:
        assert made.send(f"t{tenant % tenants}", Way.OK) is Way.OK
    most = 8 if way in (Way.BREAKS, Way.ABSENT) else 2
    trials = 3
    assert made.asked.count(bad) <= most + trials
    assert made.phase(bad) is not BreakerPhase.CLOSED
    for name in NAMES[:size]:
        if name != bad:
            assert made.phase(name) is BreakerPhase.CLOSED
            assert state_of(made.core, name).error_share == 0.0


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(2, 6),
    poisons=st.lists(st.tuples(st.integers(1, 4), HARMFUL), min_size=5, max_size=60),
)
def test_poison_hurts_two_placements_and_no_honest_request(
    size: int, poisons: list[tuple[int, Way]]
) -> None:
    """Healthy placements stay in service, whatever a hostile tenant sends between honest ones."""
    made = fleet(size)
    for _ in range(2 * size):
        assert made.send("honest", Way.OK) is Way.OK
    for fingerprint, way in poisons:
        told = made.send("hostile", way, fingerprint + 10 * (way is Way.BREAKS))
        if isinstance(told, Refuse):
            assert told.reason is RefusalReason.QUARANTINED
            assert told.retry_after_s is None
        for _ in range(size):
            assert made.send("honest", Way.OK) is Way.OK
        for hurt in made.hurt.values():
            # After a quarantine one more may be hurt, which begins the next.
            since_s = made.now - DEFAULT_QUARANTINE.first_s
            assert len({name for at_s, name in hurt if at_s > since_s}) <= 2
        for name in NAMES[:size]:
            assert made.phase(name) is BreakerPhase.CLOSED
            assert state_of(made.core, name).error_share < 1e-9
    assert len(made.core._quarantine) <= 4


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(2, 6),
    keys=st.integers(1, 4),
    count=st.integers(10, 40),
    warm=st.booleans(),
)
def test_a_fleet_that_is_down_makes_no_honest_request_a_suspect(
    size: int, keys: int, count: int, warm: bool
) -> None:
    made = fleet(size)
    for _ in range(2 * size if warm else 0):
        made.send("t0", Way.OK)
    made.faulty = {name: Way.BREAKS for name in NAMES[:size]}
    told = [made.send(f"t{number % keys}", Way.OK) for number in range(count)]
    refused = [answer for answer in told if isinstance(answer, Refuse)]
    assert len(refused) == count
    suspects = [answer for answer in refused if answer.reason is RefusalReason.QUARANTINED]
    # The first one after a success cannot be told from a request that breaks servers.
    assert len(suspects) <= (size // 2 if warm else 0)
    assert all(answer.retry_after_s is not None for answer in refused if answer not in suspects)
    made.faulty = {}
    made.now += 400.0  # every breaker lets a trial pass by now
    assert made.send("t0", Way.OK) is Way.OK


@settings(max_examples=30, deadline=None)
@given(size=st.integers(2, 6), attacks=st.integers(5, 80), hostile_keys=st.integers(1, 5))
def test_failures_of_one_tenant_open_no_breaker_for_another(
    size: int, attacks: int, hostile_keys: int
) -> None:
    """Also where nothing marks the failures as poison: no two are alike."""
    made = fleet(size)
    for _ in range(size):
        made.send("honest", Way.OK)
    for number in range(attacks):
        made.send("hostile", Way.BREAKS, key_id=f"hostile-{number % hostile_keys}")
        assert made.send("honest", Way.OK) is Way.OK
        assert {made.phase(name) for name in NAMES[:size]} == {BreakerPhase.CLOSED}


@settings(max_examples=30, deadline=None)
@given(lacking=st.sampled_from("abc"), order=st.lists(st.booleans(), min_size=80, max_size=120))
def test_a_placement_without_a_feature_serves_the_rest(lacking: str, order: list[bool]) -> None:
    made = fleet(3)
    for _ in range(6):
        assert made.send("t", Way.OK, features="chat") is Way.OK
    served = made.asked.count(lacking)
    rejected = 0
    for uses in order:
        made.faulty = {lacking: Way.REJECTS} if uses else {}
        before = made.asked.count(lacking)
        features = "chat+tools" if uses else "chat"
        assert made.send("t", Way.OK, features=features) is Way.OK
        came = made.asked.count(lacking) - before
        rejected += came * uses
    assert rejected <= 2 + 3, "two, and a few trials"
    assert made.phase(lacking) is BreakerPhase.CLOSED
    if order.count(False) >= 40:
        # Chance decides among equals: it leaves one of three out of so many almost never.
        assert made.asked.count(lacking) > served + rejected, "the rest is still served there"
