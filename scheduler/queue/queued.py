"""A request that waits in a queue, and what becomes due for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from scheduler.contract import Request


class Due(enum.IntEnum):
    """An action that becomes due for a queued request."""

    SPILL = 0
    """Send it to a remote: a later start there would be late."""
    PRESSED = 1
    """Much of the time that it may wait is gone: it goes before all that can wait longer."""
    LAST_CALL = 2
    """Try once more, with more tolerance: its time to first token is nearly up."""
    LATE = 3
    """Its time to first token is lost."""
    EXPIRED = 4
    """It has waited for as long as it may."""


@dataclass(slots=True, kw_only=True)
class Queued:
    """A request that waits, with the times at which its next actions become due.

    `spill_s`: None if no remote may take the request. `service_s`: predicted time from its start to
    its first token; `margin_s`: kept for its error. `work_s`: predicted time that it takes of a
    full group.
    """

    request: Request
    spill_s: float | None
    last_call_s: float
    late_s: float
    expires_s: float
    prefill_s: float
    service_s: float
    work_s: float
    margin_s: float = 0.0
    pressed: bool = False
    late: bool = False
    self_hosted: bool = True
    """Whether a self-hosted placement may take it, now or later; else it waits for a remote."""
    may_differ: bool = False
    """Whether other placements may be open to it than to most: it may have to leave the queue while
    these wait."""
    order: tuple[float, int] = (0.0, 0)
    """Seat in its tenant's line, given by the queue."""

    @property
    def promised_s(self) -> float:
        """The promised time to first token, s after arrival."""
        return self.late_s + self.service_s + self.margin_s - self.request.arrival_s
