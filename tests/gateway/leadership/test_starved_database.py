"""Three candidates and a database that stalls, in simulated time: stalls that the long lease
outlasts end one term at most, and a stopped leader is replaced soon where the database is well."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.leadership.candidate import Ask, Candidate, Leader, Row

LEASE_S = 3.0
LATENCY_S = 0.004
STATEMENT_S = LEASE_S / 2
"""Longest wait for an answer, as `LeaseRow` has it."""
NOBODY = Leader(term=0, name="", address="", wire_version=0)


@dataclass
class Simulation:
    """`stalls`: begin and end of each, in order."""

    stalls: Sequence[tuple[float, float]] = ()
    now_s: float = 0.0
    leader: Leader = NOBODY
    expires_s: float = float("-inf")
    begun_s: list[float] = field(default_factory=list)
    """When each term began."""
    stopped: set[str] = field(default_factory=set)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def run(self, until_s: float, members: int = 3) -> None:
        """Runs on. The candidates start at the first call."""
        for i in range(0 if self.candidates else members):
            name = f"p{i}"
            self.candidates[name] = Candidate(name, LEASE_S)
            self._at(0.01 * i, self._asks(name))
        while self._due and self._due[0][0] <= until_s:
            self.now_s, _, happen = heapq.heappop(self._due)
            happen()
        self.now_s = until_s

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (max(at_s, self.now_s), next(self._order), happen))

    def _executed_s(self) -> float:
        """When what is asked now is executed and answered."""
        at_s = self.now_s + LATENCY_S
        for begin_s, end_s in self.stalls:
            if begin_s <= at_s < end_s:
                return end_s
        return at_s

    def _asks(self, name: str) -> Callable[[], None]:
        def asks() -> None:
            if name in self.stopped:
                return
            candidate, asked_s = self.candidates[name], self.now_s
            ask, at_s = candidate.next(asked_s)
            if at_s > asked_s:
                self._at(at_s, asks)
                return
            term, lease_s = candidate.term(asked_s), candidate.lease_s(asked_s)
            given_back, waits = candidate.given_back(), [True]

            def answered() -> None:
                answer = self._execute(ask, name, term or given_back, lease_s)
                if waits and name not in self.stopped:
                    waits.clear()
                    self._tell(candidate, ask, answer, lease_s, asked_s)
                    asks()

            def timed_out() -> None:
                if waits and name not in self.stopped:
                    waits.clear()
                    candidate.failed(self.now_s)
                    asks()

            self._at(self._executed_s(), answered)
            self._at(asked_s + STATEMENT_S, timed_out)

        return asks

    def _execute(self, ask: Ask, name: str, term: int, lease_s: float) -> object:
        match ask:
            case Ask.LOOK:
                return Row(leader=self.leader, left_s=self.expires_s - self.now_s)
            case Ask.TAKE if self.expires_s <= self.now_s:
                number = self.leader.term + 1
                self.leader = Leader(term=number, name=name, address="", wire_version=1)
                self.expires_s = self.now_s + LEASE_S
                self.begun_s.append(self.now_s)
                return self.leader
            case Ask.RENEW if self.leader.term == term and self.expires_s > self.now_s:
                self.expires_s = max(self.expires_s, self.now_s + lease_s)
                return True
            case Ask.RELEASE if self.leader.term == term:
                self.expires_s = float("-inf")
            case Ask.WARN:
                for each in self.candidates.values():
                    each.warned(self.now_s)
        return None

    def _tell(
        self, candidate: Candidate, ask: Ask, answer: object, lease_s: float, asked_s: float
    ) -> None:
        now_s = self.now_s
        match ask:
            case Ask.LOOK:
                assert isinstance(answer, Row)
                candidate.answered(asked_s, now_s)
                candidate.saw(answer, now_s)
            case Ask.TAKE:
                assert answer is None or isinstance(answer, Leader)
                candidate.took(answer, asked_s, now_s)
            case Ask.RENEW:
                candidate.answered(asked_s, now_s)
                candidate.renewed(bool(answer), lease_s, asked_s, now_s)
            case Ask.RELEASE:
                candidate.released(now_s)
            case Ask.WARN:
                candidate.told(now_s)


def stalls(pauses: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """`pauses`: seconds until each stall begins after the one before, and its length."""
    found, at_s = [], 10.0
    for wait_s, stall_s in pauses:
        found.append((at_s + wait_s, at_s + wait_s + stall_s))
        at_s += wait_s + stall_s
    return found


def test_a_stopped_leader_is_replaced_within_a_short_lease() -> None:
    made = Simulation()
    made.run(20.0)
    assert len(made.begun_s) == 1
    made.stopped.add(made.leader.name)
    made.run(40.0)
    assert len(made.begun_s) == 2
    assert made.begun_s[1] - 20.0 < 1.5 + 0.01


def test_stalls_that_the_long_lease_outlasts_end_one_term() -> None:
    made = Simulation(stalls([(9.0, 1.4)] * 60))
    made.run(600.0)
    assert len(made.begun_s) == 2


def test_a_leader_that_is_stopped_while_the_database_is_in_doubt_costs_the_long_lease() -> None:
    made = Simulation(stalls([(9.0, 0.3)]))
    made.run(25.0)
    made.stopped.add(made.leader.name)
    made.run(40.0)
    assert len(made.begun_s) == 2
    assert made.begun_s[1] - 25.0 < LEASE_S + 0.01


@given(
    st.lists(st.tuples(st.floats(0.3, 15.0), st.floats(1.16, 1.4)), min_size=1, max_size=40).map(
        stalls
    )
)
@settings(max_examples=40, deadline=None)
def test_stalls_that_return_before_they_are_forgotten_end_one_term(
    found: list[tuple[float, float]],
) -> None:
    """So long that each is met by a renewal, of which the next one has to wait for 0.16 s."""
    made = Simulation(found)
    made.run(found[-1][1] + 10.0)
    assert len(made.begun_s) <= 2
