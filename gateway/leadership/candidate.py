"""One process as a candidate for the leadership of its cluster: a state machine without I/O.

The leader holds a lease: a row of the database that expires by the database's clock. A candidate
says what to ask the database next and is told the answers. It measures its own lease by its own
monotonic clock, from the moment *before* it asked, and takes a sixth of it off (`MARGIN`). So it
knows that its lease is over before the database lets another process take it, whatever the clocks
say and however late an answer comes. Only the rates of the clocks have to agree, within a sixth.

A lease that is over is never renewed: the process gives up the term, and may take a new one. A
renewal never shortens a lease, so that one which is executed late is as good as any. How long a
lease to ask for, `LeaseLength` knows.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from gateway.leadership.lease_length import LeaseLength

MARGIN = 1 / 6
"""Part of its time by which the leader itself considers the lease over earlier."""
LOOK_S = 1.0
"""Longest time between two looks at the row: a notification may be lost."""
RETRY_S = 0.1
"""Time after a failure of the database before the next attempt."""
REST_S = 5.0
"""Time for which a process that took the lease and could not lead lets others try."""


class Ask(enum.Enum):
    """What to ask the database."""

    LOOK = "look"
    TAKE = "take"
    RENEW = "renew"
    RELEASE = "release"
    WARN = "warn"
    """Tell all candidates that a term was lost that the long lease would have kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The leader. `term`: its number, higher than that of every leader before; `name`: of its
    process; `address`: host:port of its link; `wire_version`: of the messages that it speaks."""

    term: int
    name: str
    address: str
    wire_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The row as the database has it. `left_s`: seconds until the lease expires, by the clock of
    the database; not above 0: it has expired, or was given back."""

    leader: Leader
    left_s: float


class Candidate:
    """Times are seconds of the process's monotonic clock."""

    def __init__(self, name: str, lease_s: float) -> None:
        """`name`: of this process, which no other has, also not after a restart. `lease_s`: how
        long a lease lasts in the database after it was taken, or renewed where the database is slow
        or unknown."""
        self._name = name
        self._length = LeaseLength(lease_s)
        self._leader: Leader | None = None
        self.may_lead = True
        """Whether it takes the lease when that is free."""
        self._term = 0
        """The term that this process holds; 0: none."""
        self._until_s = 0.0
        self._held_s: float | None = None
        """When the last lease of this process was asked for that its term has lost."""
        self._asked_s = 0.0
        """When its present lease was asked for."""
        self._warns = False
        self._over = 0
        """A term that this process has held, and has not given back; 0: none."""
        self._is_free = False
        self._gone = 0
        self._next_s = self._rest_until_s = -math.inf

    @property
    def until_s(self) -> float:
        """When the lease of this process is over, unless it is renewed."""
        return self._until_s

    def term(self, now_s: float) -> int:
        """Returns the term in which this process leads now; 0: it does not lead."""
        return self._term if self._term and now_s < self._until_s else 0

    def leader(self, now_s: float) -> Leader | None:
        """Returns the leader as last seen, which may be this process; None: none is known."""
        return None if self._term and not self.term(now_s) else self._leader

    def lease_s(self, now_s: float) -> float:
        """Returns the length of the lease to ask for at a renewal."""
        return self._length.length_s(now_s)

    def given_back(self) -> int:
        """Returns the term that `Ask.RELEASE` is about."""
        return self._over

    def gone(self) -> int:
        """Returns the term whose leader's process is known to have ended; 0: none. `Ask.TAKE` need
        not wait for the end of its lease."""
        return self._gone

    def next(self, now_s: float) -> tuple[Ask, float]:
        """Returns what to ask next, and when, unless something is told before."""
        self._lapse(now_s)
        if self._over:
            return Ask.RELEASE, self._next_s
        if self._term:
            return Ask.RENEW, self._next_s
        if self._warns:
            return Ask.WARN, self._next_s
        return Ask.TAKE if self._would_take(now_s) else Ask.LOOK, self._next_s

    def answered(self, asked_s: float, now_s: float) -> None:
        """The database has answered a look or a renewal, asked at `asked_s`: the others may wait
        for a writer that holds the row."""
        self._lapse(now_s)
        self._length.answered(asked_s, now_s)
        if self._held_s is not None:
            held_s, self._held_s = self._held_s, None
            self._warns |= now_s < held_s + self._length.longest_s * (1 - MARGIN)

    def saw(self, row: Row, now_s: float) -> None:
        """The row was read."""
        leader = row.leader
        self._is_free = row.left_s <= 0
        if leader.term != self._gone:
            self._gone = 0
        self._leader = None if self._is_free else leader
        if not self._is_free and leader.name == self._name and leader.term != self._term:
            # Taken, but the answer was lost.
            self._over, self._leader = leader.term, None
        if self._over or self._would_take(now_s):
            self._next_s = now_s
        else:
            self._next_s = now_s + (LOOK_S if self._is_free else min(LOOK_S, row.left_s))

    def took(self, taken: Leader | None, asked_s: float, now_s: float) -> None:
        """The lease was taken in a new term, or was not free (None). `asked_s`: the time before the
        question."""
        self._is_free, self._gone = False, 0
        if taken is None:
            self._next_s = now_s
            return
        self._term, self._leader, self._until_s = taken.term, taken, asked_s
        self._length.began()
        self._extend(self._length.longest_s, asked_s)
        self._lapse(now_s)

    def renewed(self, held: bool, lease_s: float, asked_s: float, now_s: float) -> None:
        """The lease was renewed, or this process did not hold it any more. `lease_s`: the length
        that was asked for; `asked_s`: the time before the question."""
        self._lapse(now_s)
        if not self._term:
            return  # the answer came too late: the term is given back
        if held:
            self._extend(lease_s, asked_s)
        else:
            self._term, self._leader, self._next_s = 0, None, now_s

    def released(self, now_s: float) -> None:
        """The term was given back, or another process has taken one since."""
        self._over, self._next_s = 0, now_s

    def warned(self, now_s: float) -> None:
        """All candidates were told, by this process or by another one, that a term was lost that
        the long lease would have kept."""
        self._length.was_too_short(now_s)

    def told(self, now_s: float) -> None:
        """What `Ask.WARN` is about was told."""
        self._warns, self._next_s = False, now_s

    def failed(self, now_s: float) -> None:
        """The database did not answer. What was asked may have happened nevertheless."""
        self._lapse(now_s)
        self._length.failed()
        self._next_s = now_s + RETRY_S
        self._gone = 0

    def notified(self, now_s: float) -> None:
        """The row has changed, or may have."""
        self._next_s = now_s

    def found_gone(self, term: int) -> None:
        """The process of the leader of this term has ended."""
        if self._leader is not None and self._leader.term == term and not self._term:
            self._gone = term

    def resign(self, now_s: float, rest_s: float = REST_S) -> None:
        """Gives the lease back. For `rest_s` this process takes none."""
        self._rest_until_s = now_s + rest_s
        self._give_up()

    def _would_take(self, now_s: float) -> bool:
        return self.may_lead and (self._is_free or self._gone > 0) and now_s >= self._rest_until_s

    def _extend(self, lease_s: float, asked_s: float) -> None:
        self._until_s = max(self._until_s, asked_s + lease_s * (1 - MARGIN))
        self._asked_s = asked_s
        self._next_s = asked_s + self._length.renewal_s(asked_s)

    def _lapse(self, now_s: float) -> None:
        """Gives up a lease that is over."""
        if self._term and now_s >= self._until_s:
            self._held_s = self._asked_s
            self._give_up()

    def _give_up(self) -> None:
        if self._term:
            self._over, self._term, self._leader = self._term, 0, None
            self._next_s = -math.inf
