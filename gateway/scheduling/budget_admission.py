"""Spending limits of a request: its own limit (`max_cost_nano_usd`) and its budgets.

The worst-case cost at each placement that may run the request is computed at current prices.
Placements that are too expensive or have no price are excluded. The request is refused only if no
placement remains. The prompt is priced at its upper bound; if that does not fit, the caller must
count the tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec import structs

from gateway.accounting.budgets import BudgetRefused, Budgets, BudgetUnchecked
from gateway.config.money import usd_text
from scheduler.budgets.budget import Holder, worst_case_nano_usd
from scheduler.contract import PlacementKind, RefusalReason, Refuse, Request
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.placement_state import Placement
from scheduler.port import Submission
from scheduler.pricing import TokenRates

UNCHECKED_RETRY_S = 2.0
"""Retry delay in seconds while the ledger's database fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Placements of a model with the same price. `remote_class`: None for self-hosted ones."""

    names: frozenset[str]
    remote_class: str | None
    rates: TokenRates | None


@dataclass(frozen=True, slots=True)
class _Option:
    """Worst-case cost at a group of placements."""

    nano_usd: int
    names: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What an admitted request holds of its budgets, as another scheduler needs it to go on.

    `lease_id`: the lease that pays; empty: none. `reserved_nano_usd`: when it was admitted.
    `unsupported_by`: placements that it must not use, those that are too expensive included.
    """

    lease_id: str
    reserved_nano_usd: int
    charge_limit_nano_usd: int | None
    unsupported_by: frozenset[str]


class _TooExpensive(Exception):
    """The worst case exceeds the request's own limit everywhere. The text suggests a fix."""


class BudgetAdmission:
    """Reserves spend in the budgets. `configure` sets the placements and prices."""

    def __init__(self, budgets: Budgets, base_model: Callable[[str], str]) -> None:
        """`base_model`: the base model of an adapter; of a model the model itself."""
        self._budgets = budgets
        self._placements: tuple[Placement, ...] = ()
        self._rates = RateSnapshot()
        self._groups: dict[tuple[str, str, bool], tuple[_Group, ...]] = {}
        self._base_model = base_model

    def configure(self, placements: tuple[Placement, ...], rates: RateSnapshot) -> None:
        """Sets the placements, and the prices for requests admitted from now on."""
        self._placements, self._rates, self._groups = placements, rates, {}

    def applies(self, submission: Submission) -> bool:
        """Whether any spending limit applies to the request."""
        return submission.max_cost_nano_usd is not None or self._holder(submission) is not None

    async def reserve(
        self, submission: Submission, prompt_tokens: int | None
    ) -> Request | Refuse | None:
        """Reserves the request's worst-case cost until `release`.

        `prompt_tokens`: exact count; None: use the upper bound. Returns the request, restricted to
        affordable placements, or the refusal. Returns None if the upper bound does not fit and the
        exact count is needed.
        """
        try:
            return await self._reserve(submission, prompt_tokens)
        except (BudgetRefused, BudgetUnchecked, _TooExpensive) as error:
            self.release(submission)
            return _refusal(submission, error)

    def reservation(self, admitted: Request) -> Reservation:
        """Returns what a request holds that was admitted just now. `admitted`: as `reserve`
        returned it."""
        lease_id, reserved_nano_usd = self._budgets.book.held(admitted.request_id)
        return Reservation(
            lease_id=lease_id,
            reserved_nano_usd=reserved_nano_usd,
            charge_limit_nano_usd=admitted.charge_limit_nano_usd,
            unsupported_by=admitted.unsupported_by,
        )

    def resume(
        self, submission: Submission, reservation: Reservation, charged: Sequence[int | None]
    ) -> None:
        """Holds again what an earlier scheduler has reserved. `charged`: what each attempt that is
        booked was charged, nano-USD; None: unknown, and then the whole reservation counts."""
        left = reservation.reserved_nano_usd
        for amount in charged:
            left = 0 if amount is None else max(0, left - amount)
        if reservation.lease_id:
            request = submission.request
            # None: its budget was taken away meanwhile.
            holder = self._holder(submission) or Holder(request.tenant, request.key_id, None)
            self._budgets.book.hold_again(
                request.request_id, reservation.lease_id, holder, left, time.time()
            )

    def release(self, submission: Submission) -> None:
        """Releases the reservation after the request has ended and its attempts are settled."""
        self._budgets.release(submission.request.request_id)

    def _holder(self, submission: Submission) -> Holder | None:
        request = submission.request
        return self._budgets.holder(request.tenant, request.key_id, request.session_id)

    async def _reserve(
        self, submission: Submission, prompt_tokens: int | None
    ) -> Request | Refuse | None:
        request, holder = submission.request, self._holder(submission)
        groups = self._allowed(request)
        priced = [group for group in groups if group.rates is not None]
        is_hard = holder is not None and self._budgets.book.applied.is_hard(holder)
        capped = submission.max_cost_nano_usd is not None or is_hard
        if groups and capped and not priced:
            return _price_unknown(submission, groups)
        bound = submission.prompt_tokens_bound
        if prompt_tokens is not None:
            bound = min(bound, prompt_tokens)
        options = _options(priced, bound, submission)
        if prompt_tokens is None:
            try:
                level = await self._hold(
                    submission, holder, [max((o.nano_usd for o in options), default=0)]
                )
            except (BudgetRefused, _TooExpensive):
                if not request.prompt_tokens_exact:
                    return None
                level = await self._hold(submission, holder, _levels(options))
        else:
            level = await self._hold(submission, holder, _levels(options))
        left_out = {name for option in options if option.nano_usd > level for name in option.names}
        if capped:
            left_out |= {name for group in groups if group.rates is None for name in group.names}
        if capped and options:
            # What is held is all that may be charged, whatever an upstream counts.
            most = submission.max_cost_nano_usd
            held = level if is_hard or most is None else most
            request = structs.replace(request, charge_limit_nano_usd=held)
        if not left_out:
            return request
        return structs.replace(request, unsupported_by=request.unsupported_by | left_out)

    async def _hold(
        self, submission: Submission, holder: Holder | None, levels: Sequence[int]
    ) -> int:
        """Reserves the first affordable level of falling worst-case costs, in nano-USD, and returns
        it."""
        limit = submission.max_cost_nano_usd
        if limit is not None:
            if levels[-1] > limit:
                raise _TooExpensive(
                    f"{limit}, but the request can cost {levels[-1]} where it is cheapest: raise "
                    "it, shorten the prompt or lower max_output_tokens"
                )
            levels = [level for level in levels if level <= limit]
        if holder is None:
            return levels[0]
        for level in levels:
            try:
                await self._budgets.reserve(submission.request.request_id, holder, level)
            except BudgetRefused:
                if level == levels[-1]:
                    raise
            else:
                return level
        raise AssertionError("there is at least one level")

    def _allowed(self, request: Request) -> list[_Group]:
        priced_as = request.model, self._base_model(request.model), request.batch_work
        groups = self._groups.get(priced_as)
        if groups is None:
            groups = self._groups[priced_as] = _grouped(self._placements, self._rates, *priced_as)
        return [
            group
            for group in groups
            if (group.remote_class is None or group.remote_class in request.remote_classes)
            and not group.names <= request.unsupported_by
        ]


def _grouped(
    placements: Iterable[Placement],
    rates: RateSnapshot,
    model: str,
    base_model: str,
    batch_work: bool,
) -> tuple[_Group, ...]:
    """Placements that may have the model, which may be an adapter of `base_model`."""
    names: dict[tuple[str | None, TokenRates | None], set[str]] = {}
    for facts in placements:
        is_remote = facts.kind is PlacementKind.REMOTE
        if facts.model == model or (facts.model == base_model and not is_remote):
            found = rates.of(facts.name, model, batch=batch_work)
            key = facts.remote_class if is_remote else None, found
            names.setdefault(key, set()).add(facts.name)
    return tuple(
        _Group(names=frozenset(group), remote_class=remote_class, rates=found)
        for (remote_class, found), group in names.items()
    )


def _options(groups: Sequence[_Group], input_tokens: int, submission: Submission) -> list[_Option]:
    request = submission.request
    output_tokens = request.max_output_tokens * request.choices
    if submission.may_be_continued:  # a continuation reads the prompt and the output again
        input_tokens += input_tokens + output_tokens
    return [
        _Option(
            worst_case_nano_usd(
                group.rates, input_tokens=input_tokens, output_tokens=output_tokens
            ),
            group.names,
        )
        for group in groups
        if group.rates is not None
    ]


def _levels(options: Iterable[_Option]) -> list[int]:
    return sorted({option.nano_usd for option in options}, reverse=True) or [0]


def _price_unknown(submission: Submission, groups: Iterable[_Group]) -> Refuse:
    names = ", ".join(sorted(name for group in groups for name in group.names))[:200]
    why = "max_cost_nano_usd" if submission.max_cost_nano_usd is not None else "its budget"
    return Refuse(
        request_id=submission.request.request_id,
        reason=RefusalReason.PRICE_UNKNOWN,
        message=(
            f"{why} cannot be held: no server that may run model {submission.request.model!r} has "
            f"a price per token ({names}); an operator can add one to prices.catalog: a showback "
            "row for an own pool, a price_row for a remote"
        ),
        retry_after_s=None,
        subject="price",
    )


def _refusal(
    submission: Submission, error: BudgetRefused | BudgetUnchecked | _TooExpensive
) -> Refuse:
    request_id = submission.request.request_id
    match error:
        case BudgetUnchecked():
            return Refuse(
                request_id=request_id,
                reason=RefusalReason.BUDGET_UNCHECKED,
                message=f"the budget cannot be checked, the ledger does not answer: {error}",
                retry_after_s=UNCHECKED_RETRY_S,
            )
        case _TooExpensive():
            return Refuse(
                request_id=request_id,
                reason=RefusalReason.MAX_COST,
                message=str(error),
                retry_after_s=None,
                subject="max_cost_nano_usd",
            )
    limit, refusal = error.refusal.limit, error.refusal
    cap, left = _usd(limit.cap_nano_usd), _usd(refusal.left_nano_usd)
    need = _usd(refusal.needed_nano_usd)
    if error.retry_after_s is not None:
        reason = RefusalReason.BUDGET_HELD
        text = f"of {cap}, {left} is neither spent nor held by running requests; {need} is needed"
    else:
        reason = RefusalReason.BUDGET_SPENT
        ends = datetime.fromtimestamp(limit.ends_unix_s, UTC).isoformat(timespec="minutes")
        text = (
            f"of {cap}, {left} is left until {ends}; the request may cost {need} beyond its lease"
        )
    return Refuse(
        request_id=request_id,
        reason=reason,
        message=text,
        retry_after_s=error.retry_after_s,
        subject=str(error),
        window=limit.window if reason is RefusalReason.BUDGET_SPENT else None,
    )


def _usd(nano_usd: int) -> str:
    return f"${usd_text(nano_usd)}"
