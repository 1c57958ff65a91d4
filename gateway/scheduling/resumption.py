"""Takes over requests that an earlier scheduler has admitted, and that a front goes on with.

What a request holds is held again without a decision: its idempotency key, its key's slot, its part
of a budget's lease, its placement. Nothing is refused here, because the request runs already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gateway.scheduling.branches import Branches, ClaimedRequest
from gateway.scheduling.budget_admission import BudgetAdmission, Reservation
from gateway.scheduling.claims import Claims
from scheduler.contract import Start
from scheduler.limits.idempotency import KeyUse
from scheduler.limits.rate_limit import RateLevel
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import AttemptEnd, Deliver, Submission


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberedKey:
    """An idempotency key of a request. `left_s`: for which it stays in use. `has_output`: the
    client may have output of the request. `has_ended`: the request is known to have ended."""

    key_id: str
    idempotency_key: str
    tenant: str
    client_id: str
    left_s: float
    has_output: bool = True
    has_ended: bool = True


class Resumption:
    """Takes over requests. `requests`: those in progress, by id, which it adds to."""

    def __init__(
        self,
        requests: dict[str, ClaimedRequest],
        branches: Branches,
        claims: Claims,
        budgets: BudgetAdmission,
        *,
        rates: Callable[[], RateSnapshot],
        clock: Callable[[], float],
    ) -> None:
        """`rates`: prices in force. `clock`: monotonic seconds."""
        self._requests = requests
        self._branches = branches
        self._claims = claims
        self._budgets = budgets
        self._rates = rates
        self._clock = clock

    def begin(
        self,
        submission: Submission,
        deliver: Deliver,
        reservation: Reservation | None,
        *,
        attempts: int,
        charged: Iterable[int | None],
        may_have_output: bool = False,
    ) -> tuple[ClaimedRequest, bool]:
        """Takes over a client's request, without its branches.

        `attempts`: started so far; `charged`: what each of those that are booked was charged,
        nano-USD; None: unknown. Returns the request, and whether it holds its claims: another
        request may have its id or its idempotency key, if the front was away for too long.
        """
        request = submission.request
        claimed = ClaimedRequest(
            submission=submission,
            deliver=deliver,
            rates=self._rates(),
            attempts=attempts,
        )
        amounts = list(charged)
        claimed.charged_nano_usd = sum(amount or 0 for amount in amounts)
        if request.request_id in self._requests or not self._claims.resume(
            submission, has_output=may_have_output
        ):
            return claimed, False
        self._requests[request.request_id] = claimed
        if reservation is not None:
            claimed.budgeted = True
            claimed.charge_limit_nano_usd = reservation.charge_limit_nano_usd
            self._budgets.resume(submission, reservation, amounts)
        return claimed, True

    def run(
        self,
        claimed: ClaimedRequest,
        submission: Submission,
        deliver: Deliver,
        start: Start,
        *,
        started_ago_s: float,
        output_tokens: int,
    ) -> None:
        """Takes over a branch whose attempt runs."""
        self._branches.resume(
            claimed,
            submission,
            deliver,
            start,
            started_s=self._clock() - started_ago_s,
            output_tokens=output_tokens,
        )

    def wait(
        self, claimed: ClaimedRequest, submission: Submission, deliver: Deliver, attempts: int
    ) -> None:
        """Takes over a branch that waits for its first or its next attempt."""
        self._branches.wait_again(claimed, submission, deliver, attempts)

    def book(self, claimed: ClaimedRequest, start: Start, end: AttemptEnd) -> SettledAttempt:
        """Settles an attempt that has ended while there was no scheduler."""
        return self._branches.book(claimed, start, end)

    def resume_slots(self, key_id: str, count: int) -> None:
        """Takes over slots of a key, each of which `SlotFreed` gives back."""
        self._claims.resume_slots(key_id, count)

    def restore_levels(self, levels: Iterable[RateLevel]) -> None:
        """Goes on with the rates of keys as an earlier scheduler has left them."""
        self._claims.restore_levels(levels, self._clock())

    def remember(self, keys: Iterable[RememberedKey]) -> None:
        """Remembers idempotency keys of requests of an earlier scheduler."""
        now = self._clock()
        for key in sorted(keys, key=lambda each: each.left_s):
            pair = key.key_id, key.idempotency_key
            use = KeyUse(
                tenant=key.tenant,
                request_id=key.client_id,
                until_s=None,
                has_output=key.has_output,
                has_ended=key.has_ended,
            )
            self._claims.remember(pair, use, now + key.left_s)
