"""How long a lease to ask for: short while the database answers promptly, long otherwise.

A short lease makes the loss of a leader short that closes no connection. A database that stalls
for longer than it ends the term of a leader that is well, and the next leader costs more than the
stall. So a term begins with the long lease, and comes to the short one by prompt answers; one slow
answer brings the long one back, for 60 times as long as it took. If a term was lost that the long
lease would have kept, all candidates of the cluster are warned, and each warning doubles that time.
"""

from __future__ import annotations

import math

PART = 0.5
"""Length of the short lease, as part of the long one; at least `SHORTEST_S`."""
SHORTEST_S = 1.5
PROMPT = 0.1
"""Longest time of a prompt answer, as part of the short lease."""
PROMPT_ANSWERS = 4
"""Prompt answers in turn, of a term, before its lease is short."""
LONG_RENEWALS = 3
"""Renewals in the time of a long lease while the database is in doubt."""
SHORT_RENEWALS = 6
"""Renewals in the time of a short lease: the more, the longer a stall that ends no term."""
DOUBT = 60.0
"""Time for which the database is in doubt after a slow answer, as multiple of the answer's time.
Each warning doubles it, until the database has not been in doubt for `LONGEST_DOUBT_S`."""
LONGEST_DOUBT_S = 3600.0


class LeaseLength:
    """What one candidate knows of the database. Times are seconds of its monotonic clock."""

    def __init__(self, longest_s: float) -> None:
        """`longest_s`: length for a database that is slow or unknown."""
        self.longest_s = longest_s
        self.short_s = min(longest_s, max(PART * longest_s, SHORTEST_S))
        self._prompt = 0
        """Prompt answers in turn."""
        self._prompt_at_s = -math.inf
        """When the last one came."""
        self._fails = False
        """Whether the database has failed since."""
        self._multiple = DOUBT
        self._doubted_until_s = -math.inf

    def length_s(self, now_s: float) -> float:
        """Returns the length to ask for at a renewal. One that is taken is long."""
        proven = self._prompt >= PROMPT_ANSWERS and not self._doubts(now_s)
        return self.short_s if proven else self.longest_s

    def renewal_s(self, now_s: float) -> float:
        """Returns the time between two renewals."""
        if self._doubts(now_s):
            return self.longest_s / LONG_RENEWALS
        return self.short_s / SHORT_RENEWALS

    def began(self) -> None:
        """A term begins."""
        self._prompt = 0

    def answered(self, asked_s: float, now_s: float) -> None:
        """The database has answered. An outage that would have ended a long lease, too, says
        nothing of the length; the answers after it do."""
        prompt = now_s - asked_s <= PROMPT * self.short_s
        since_s = now_s - self._prompt_at_s
        if (self._fails or not prompt) and since_s <= self.longest_s:
            self._forget_old(now_s)
            self._doubt(now_s, since_s if self._fails else now_s - asked_s)
        if prompt:
            self._prompt += 1
            self._prompt_at_s, self._fails = now_s, False
        else:
            self._prompt = 0

    def failed(self) -> None:
        """The database did not answer."""
        self._prompt, self._fails = 0, True

    def was_too_short(self, now_s: float) -> None:
        """A warning: a term was lost, of any process, that the long lease would have kept."""
        self._forget_old(now_s)
        self._multiple *= 2
        self._doubt(now_s, self.short_s)

    def _doubts(self, now_s: float) -> bool:
        return self.short_s >= self.longest_s or now_s < self._doubted_until_s

    def _doubt(self, now_s: float, late_s: float) -> None:
        doubt_s = min(self._multiple * late_s, LONGEST_DOUBT_S)
        self._doubted_until_s = max(self._doubted_until_s, now_s + doubt_s)

    def _forget_old(self, now_s: float) -> None:
        if now_s >= self._doubted_until_s + LONGEST_DOUBT_S:
            self._multiple = DOUBT
