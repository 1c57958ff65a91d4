"""What one front has at the scheduler, as its session keeps it, and what the session works with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.link.wire.messages import Kind
from gateway.link.wire.resume import AttemptKey, RequestState, attempt_keys
from gateway.scheduling.branches import ClaimedRequest
from scheduler.contract import Start
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import Answer, Settled, Submission


class Send(Protocol):
    """Sends a message to the front, as `Connection.post`."""

    def __call__(self, kind: Kind, number: int, payload: Any, *, key: str = "") -> None:
        """Sends a message soon."""


class Booking(Protocol):
    """The ledger's rows, as far as a session needs to know of them."""

    @property
    def accepted_rows(self) -> int:
        """Rows since the start."""

    @property
    def durable_rows(self) -> int:
        """Those of them that a kill of this process does not lose."""


class _Nothing:
    """No ledger: nothing is waited for."""

    accepted_rows = durable_rows = 0


NO_BOOKING: Booking = _Nothing()


Booked = Mapping[tuple[str, int], SettledAttempt]
"""Accounts of attempts that the ledger has, by request id and attempt number."""


class Bookings(Booking, Protocol):
    """The ledger, as far as the host needs it."""

    async def booked(self, keys: Sequence[AttemptKey]) -> Booked:
        """Returns the accounts of those attempts that are in the ledger."""


async def booked_of(bookings: Bookings, states: Iterable[RequestState]) -> Booked:
    """Returns the accounts of attempts of these requests that are in the ledger."""
    keys = [key for state in states for key in attempt_keys(state)]
    return await bookings.booked(keys) if keys else {}


class _NoBookings:
    accepted_rows = durable_rows = 0

    async def booked(self, keys: Sequence[AttemptKey]) -> Booked:
        """Nothing is."""
        return {}


NO_BOOKINGS: Bookings = _NoBookings()


@dataclass(slots=True, kw_only=True, eq=False)
class OwnedRequest:
    """A client's request of this front."""

    submission: Submission
    branches: list[OwnedBranch] = field(default_factory=list)
    claimed: ClaimedRequest | None = None
    """The request at the scheduler, if budgets apply to it."""
    reserved: bool = False
    """Whether the front was told what it holds of its budgets."""
    stray: bool = False
    """It holds no claims: another request has taken them while the front was away. Its attempts are
    booked when they end."""
    may_have_output: bool = False
    """Whether the client may have received output."""
    seen_tokens: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class OwnedBranch:
    """A branch of this front.

    Attributes:
        attempt: number of the running attempt; 0: none runs.
        decision: last answer about a placement: `Waiting`, `CountPrompt`, `Started` or `Refuse`.
        settled: account of its last attempt.
        start: of the running attempt.
        booked: account of the running attempt, which was settled while the front was away.
    """

    number: int
    owned: OwnedRequest
    submission: Submission
    attempt: int = 0
    started_s: float = 0.0
    output_tokens: int = 0
    decision: Answer | None = None
    settled: Settled | None = None
    start: Start | None = None
    booked: SettledAttempt | None = None
    reserving: asyncio.Task[None] | None = None
    """The reservation in budgets that its submission waits for."""

    def resume(self, start: Start, started_s: float, output_tokens: int) -> None:
        """An attempt runs that an earlier scheduler has started."""
        self.start, self.attempt = start, start.attempt
        self.started_s, self.output_tokens = started_s, output_tokens
