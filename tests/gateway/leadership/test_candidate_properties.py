"""Whatever the clocks say and whatever is late or lost, at most one process leads at any instant,
and no write of an old leader is accepted after one of a newer."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from gateway.leadership.candidate import Ask, Candidate, Leader, Row

LEASE_S = 3.0
RATES = st.floats(0.93, 1.07)
OFFSETS = st.floats(-1e6, 1e6)
INSTANTS = st.one_of(
    st.sampled_from((0.1, 0.25, 0.5, 0.9, 1.2, 1.3, 1.45, 1.55, 2.0, 2.45, 2.55, 2.95, 3.05)),
    st.floats(0.001, 4.0),
)
NOBODY = Leader(term=0, name="", address="", wire_version=0)
WHO = st.integers(0, 2)


@dataclass
class Database:
    """The model of the row. Its clock has a rate and an offset, too."""

    rate: float
    offset_s: float
    leader: Leader = field(
        default_factory=lambda: Leader(term=0, name="", address="", wire_version=0)
    )
    expires_s: float = float("-inf")
    connected: set[int] = field(default_factory=set)
    """Terms whose process lives: its advisory lock is held."""

    def now(self, true_s: float) -> float:
        return self.offset_s + self.rate * true_s

    def execute(self, asked: Asked, true_s: float) -> object:
        now_s = self.now(true_s)
        match asked.ask:
            case Ask.LOOK:
                return Row(leader=self.leader, left_s=self.expires_s - now_s)
            case Ask.TAKE:
                is_gone = asked.term == self.leader.term and asked.term not in self.connected
                if self.expires_s > now_s and not is_gone:
                    return None
                term = self.leader.term + 1
                self.leader = Leader(term=term, name=asked.name, address="", wire_version=1)
                self.connected.add(term)
                self.expires_s = now_s + LEASE_S
                return self.leader
            case Ask.RENEW:
                if self.leader.term != asked.term or self.expires_s <= now_s:
                    return False
                self.expires_s = max(self.expires_s, now_s + asked.lease_s)
                return True
            case Ask.RELEASE:
                if self.leader.term == asked.term:
                    self.expires_s = float("-inf")
                return None
            case Ask.WARN:
                return None


@dataclass
class Asked:
    """A question on its way. `name`: of who asked; `term`: that it is about."""

    ask: Ask
    name: str
    term: int
    asked_s: float
    lease_s: float
    executed: bool = False
    answer: object = None


@dataclass
class Process:
    """A candidate with its clock."""

    candidate: Candidate
    name: str
    rate: float
    offset_s: float
    asked: Asked | None = None
    is_stopped: bool = False

    def now(self, true_s: float) -> float:
        return self.offset_s + self.rate * true_s


class ManyCandidates(RuleBasedStateMachine):
    """Three processes and a database."""

    writes = Bundle("writes")

    @initialize(rates=st.tuples(RATES, RATES, RATES, RATES), offsets=st.tuples(*[OFFSETS] * 4))
    def begin(self, rates: tuple[float, ...], offsets: tuple[float, ...]) -> None:
        self.true_s = 0.0
        self.database = Database(rates[3], offsets[3])
        self.names = 0
        self.processes = [self._process(rates[i], offsets[i]) for i in range(3)]
        self.late: list[Asked] = []
        """Questions whose askers no longer wait. The database may execute them yet."""
        self.accepted = [0]
        """Terms of the accepted writes."""
        self.follows_and_leads(0)

    def _process(self, rate: float, offset_s: float) -> Process:
        self.names += 1
        name = f"p{self.names}"
        return Process(Candidate(name, LEASE_S), name, rate, offset_s)

    @rule(by_s=INSTANTS)
    def time_passes(self, by_s: float) -> None:
        self.true_s += by_s

    @rule(who=WHO)
    def asks(self, who: int) -> None:
        process = self.processes[who]
        now_s = process.now(self.true_s)
        candidate = process.candidate
        if process.asked is not None or process.is_stopped:
            return
        ask, at_s = candidate.next(now_s)
        if at_s > now_s:
            return
        terms = {
            Ask.TAKE: candidate.gone(),
            Ask.RENEW: candidate.term(now_s),
            Ask.RELEASE: candidate.given_back(),
        }
        lease_s = candidate.lease_s(now_s)
        process.asked = Asked(ask, process.name, terms.get(ask, 0), now_s, lease_s)

    @rule(who=WHO)
    def is_executed(self, who: int) -> None:
        asked = self.processes[who].asked
        if asked is not None and not asked.executed:
            asked.answer, asked.executed = self.database.execute(asked, self.true_s), True

    @rule(who=WHO)
    def is_answered(self, who: int) -> None:
        process = self.processes[who]
        asked, now_s = process.asked, process.now(self.true_s)
        if asked is None or not asked.executed or process.is_stopped:
            return
        process.asked = None
        candidate, answer = process.candidate, asked.answer
        match asked.ask:
            case Ask.LOOK:
                assert isinstance(answer, Row)
                candidate.answered(asked.asked_s, now_s)
                candidate.saw(answer, now_s)
            case Ask.TAKE:
                assert answer is None or isinstance(answer, Leader)
                candidate.took(answer, asked.asked_s, now_s)
            case Ask.RENEW:
                assert isinstance(answer, bool)
                candidate.answered(asked.asked_s, now_s)
                candidate.renewed(answer, asked.lease_s, asked.asked_s, now_s)
            case Ask.RELEASE:
                candidate.released(now_s)
            case Ask.WARN:
                candidate.told(now_s)
                for each in self.processes:
                    each.candidate.warned(each.now(self.true_s))

    @rule(who=WHO, late_s=st.sampled_from((0.0, 0.0, 0.4, 1.2, 1.4, 2.4, 2.9)))
    def round_trip(self, who: int, late_s: float) -> None:
        self.asks(who)
        self.is_executed(who)
        self.true_s += late_s
        self.is_answered(who)

    @rule(who=WHO)
    def follows_and_leads(self, who: int) -> None:
        """Everything that is due is asked and answered at once."""
        for _ in range(4):
            self.round_trip(who, 0.0)

    @rule(who=WHO, times=st.integers(1, 14))
    def renews_promptly(self, who: int, times: int) -> None:
        """As long as the database answers at once, its lease becomes short."""
        process = self.processes[who]
        for _ in range(times):
            ask, at_s = process.candidate.next(process.now(self.true_s))
            if ask is not Ask.RENEW:
                return
            self.true_s = max(self.true_s, (at_s - process.offset_s) / process.rate + 1e-6)
            self.round_trip(who, 0.0)

    @rule(who=WHO)
    def fails(self, who: int) -> None:
        process = self.processes[who]
        if process.asked is not None and not process.is_stopped:
            self.late.append(process.asked)
            process.asked = None
            process.candidate.failed(process.now(self.true_s))

    @rule(data=st.data())
    def is_executed_late(self, data: st.DataObject) -> None:
        if self.late:
            asked = self.late.pop(data.draw(st.integers(0, len(self.late) - 1)))
            if not asked.executed:
                self.database.execute(asked, self.true_s)

    @rule(who=WHO, is_stopped=st.booleans())
    def is_stopped_or_goes_on(self, who: int, is_stopped: bool) -> None:
        self.processes[who].is_stopped = is_stopped

    @rule(who=WHO)
    def is_killed(self, who: int) -> None:
        old = self.processes[who]
        if old.asked is not None:
            self.late.append(old.asked)
        if self.database.leader.name == old.name:
            self.database.connected.discard(self.database.leader.term)
        self.processes[who] = self._process(old.rate, old.offset_s)

    @rule(who=WHO)
    def finds_the_leader_gone(self, who: int) -> None:
        process = self.processes[who]
        candidate = process.candidate
        leader = candidate.leader(process.now(self.true_s))
        if leader is not None and leader.name not in [p.name for p in self.processes]:
            candidate.found_gone(leader.term)

    @rule(who=WHO)
    def resigns(self, who: int) -> None:
        process = self.processes[who]
        if not process.is_stopped:
            process.candidate.resign(process.now(self.true_s))

    @rule(who=WHO)
    def is_notified(self, who: int) -> None:
        process = self.processes[who]
        if not process.is_stopped:
            process.candidate.notified(process.now(self.true_s))

    @rule(target=writes, who=WHO)
    def begins_to_write(self, who: int) -> int:
        process = self.processes[who]
        return process.candidate.term(process.now(self.true_s))

    @rule(term=writes)
    def write_arrives(self, term: int) -> None:
        if term and term == self.database.leader.term:  # the fence
            self.accepted.append(term)

    @invariant()
    def at_most_one_leads(self) -> None:
        terms = [p.candidate.term(p.now(self.true_s)) for p in getattr(self, "processes", ())]
        assert len([term for term in terms if term]) <= 1, terms

    @invariant()
    def the_lease_of_who_leads_ends_by_its_clock_first(self) -> None:
        for process in getattr(self, "processes", ()):
            if process.candidate.term(process.now(self.true_s)):
                until_s = (process.candidate.until_s - process.offset_s) / process.rate
                expires_s = (self.database.expires_s - self.database.offset_s) / self.database.rate
                assert until_s < expires_s + 1e-6

    @invariant()
    def who_leads_has_the_row(self) -> None:
        for process in getattr(self, "processes", ()):
            term = process.candidate.term(process.now(self.true_s))
            assert term in (0, self.database.leader.term)

    @invariant()
    def accepted_writes_are_in_the_order_of_terms(self) -> None:
        accepted = getattr(self, "accepted", [])
        assert accepted == sorted(accepted)


TestManyCandidates = ManyCandidates.TestCase
TestManyCandidates.settings = settings(max_examples=400, stateful_step_count=30, deadline=None)
