"""What a request may spend: its own limit (`max_cost_nano_usd`) and the budgets it falls under.

The worst case of each server that may run it is priced at the rates of the moment. Servers that are
too dear, or whose price is unknown, are left out for it; only when none remains is it refused. The
prompt is taken at an upper bound from its bytes; where that does not fit, its tokens are counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from gateway.accounting.budgets import BudgetRefused, Budgets, BudgetUnchecked
from gateway.config.ledger import NANO_USD
from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Generation
from gateway.doors.grpc import errors
from gateway.pipeline.continuation import may_be_continued
from gateway.pipeline.token_count import exact_prompt_tokens, prompt_token_bound
from gateway.runtime.assembly import Runtime
from scheduler.budgets.budget import Holder, worst_case_nano_usd
from scheduler.contract import PlacementKind, Request
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.pricing import TokenRates

UNCHECKED_RETRY_S = 2.0
"""When to try again while the ledger does not answer."""


class PriceUnknown(Exception):
    """A cap holds, and no server that may run the request has a price. The text says what to do."""


class TooDear(Exception):
    """The request's own limit is below its worst case everywhere. The text says what to do."""


SPENDING_REFUSED = (BudgetRefused, BudgetUnchecked, PriceUnknown, TooDear)


def refused(error: BudgetRefused | BudgetUnchecked | PriceUnknown | TooDear) -> errors.RpcError:
    """What the client is told."""
    match error:
        case BudgetUnchecked():
            message = f"the budget cannot be checked, the ledger does not answer: {error}"
            return errors.unavailable(message, "BUDGET_UNCHECKED", UNCHECKED_RETRY_S)
        case PriceUnknown():
            return errors.quota("price", str(error), "PRICE_UNKNOWN", None)
        case TooDear():
            return errors.quota("max_cost_nano_usd", str(error), "MAX_COST", None)
    limit, refusal = error.refusal.limit, error.refusal
    cap, left = _usd(limit.cap_nano_usd), _usd(refusal.left_nano_usd)
    need = _usd(refusal.needed_nano_usd)
    if error.retry_after_s is not None:
        text = f"of {cap}, {left} is neither spent nor held by running requests; {need} is needed"
        return errors.quota(str(error), text, "BUDGET_HELD", error.retry_after_s)
    ends = datetime.fromtimestamp(limit.ends_unix_s, UTC).isoformat(timespec="minutes")
    text = f"of {cap}, {left} is left until {ends}; the request may cost {need} beyond its lease"
    return errors.quota(str(error), text, "BUDGET_SPENT", None)


def _usd(nano_usd: int) -> str:
    return f"${Decimal(nano_usd) / NANO_USD:f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Placements of a model that have one price. `remote_class` is None for own ones."""

    names: frozenset[str]
    remote_class: str | None
    rates: TokenRates | None


@dataclass(frozen=True, slots=True)
class _Option:
    """Worst case at a group of placements."""

    nano_usd: int
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request that a cap holds for."""

    request: Request
    generation: Generation
    runtime: Runtime
    holder: Holder | None
    max_cost_nano_usd: int | None


class Spending:
    """Asks the budgets for requests of all configurations."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._groups: dict[str, tuple[_Group, ...]] = {}
        self._grouped: tuple[Runtime, RateSnapshot] | None = None
        self._asked: set[str] = set()

    def has(self, request_id: str) -> bool:
        """Whether a cap holds for a request of this id that has not ended."""
        return request_id in self._asked

    @contextlib.asynccontextmanager
    async def reserved(
        self,
        request: Request,
        generation: Generation,
        runtime: Runtime,
        max_cost_nano_usd: int | None,
    ) -> AsyncIterator[Request]:
        """Holds the request's worst case while it runs; gives it without the servers it cannot pay.

        Raises BudgetRefused, BudgetUnchecked, PriceUnknown or TooDear.
        """
        holder = self._budgets.holder(request.tenant, request.key_id, request.session_id)
        if holder is None and max_cost_nano_usd is None:
            yield request
            return
        ask = _Ask(request, generation, runtime, holder, max_cost_nano_usd)
        self._asked.add(request.request_id)
        try:
            yield await self._reserve(ask)
        finally:
            self._asked.discard(request.request_id)
            if holder is not None:
                self._budgets.release(request.request_id)

    async def _reserve(self, ask: _Ask) -> Request:
        request = ask.request
        groups = self._allowed(ask)
        priced = [group for group in groups if group.rates is not None]
        capped = ask.max_cost_nano_usd is not None or (
            ask.holder is not None and self._budgets.book.is_hard(ask.holder)
        )
        if groups and capped and not priced:
            names = ", ".join(sorted(name for group in groups for name in group.names))[:200]
            why = "max_cost_nano_usd" if ask.max_cost_nano_usd is not None else "its budget"
            raise PriceUnknown(
                f"{why} cannot be held: no server that may run model {request.model!r} has a "
                f"price per token ({names}); an operator can add one to prices.catalog: a showback "
                "row for an own pool, a price_row for a remote"
            )
        bound = prompt_token_bound(ask.generation)
        goes_on = ask.runtime.config.failures.continue_cut_answers and may_be_continued(
            ask.generation
        )
        options = _options(priced, bound, request, goes_on=goes_on)
        try:
            level = await self._hold(ask, [max((o.nano_usd for o in options), default=0)])
        except (BudgetRefused, TooDear):
            if not request.prompt_tokens_exact:
                with contextlib.suppress(UpstreamFailure):  # if it is at fault, it will be told
                    exact = await exact_prompt_tokens(ask.runtime, ask.generation)
                    bound = bound if exact is None else min(bound, exact)
                options = _options(priced, bound, request, goes_on=goes_on)
            levels = sorted({option.nano_usd for option in options}, reverse=True)
            level = await self._hold(ask, levels or [0])
        left_out = {name for option in options if option.nano_usd > level for name in option.names}
        if capped:
            left_out |= {name for group in groups if group.rates is None for name in group.names}
        if not left_out:
            return request
        return replace(request, unsupported_by=request.unsupported_by | left_out)

    async def _hold(self, ask: _Ask, levels: Sequence[int]) -> int:
        """Reserves the first of falling worst cases that can be had; returns it."""
        limit = ask.max_cost_nano_usd
        if limit is not None:
            if levels[-1] > limit:
                raise TooDear(
                    f"{limit}, but the request can cost {levels[-1]} where it is cheapest: raise "
                    "it, shorten the prompt or lower max_output_tokens"
                )
            levels = [level for level in levels if level <= limit]
        if ask.holder is None:
            return levels[0]
        for level in levels:
            try:
                await self._budgets.reserve(ask.request.request_id, ask.holder, level)
            except BudgetRefused:
                if level == levels[-1]:
                    raise
            else:
                return level
        raise AssertionError("there is at least one level")

    def _allowed(self, ask: _Ask) -> list[_Group]:
        request = ask.request
        return [
            group
            for group in self._of_model(ask.runtime, request.model)
            if (group.remote_class is None or group.remote_class in request.remote_classes)
            and not group.names <= request.unsupported_by
        ]

    def _of_model(self, runtime: Runtime, model: str) -> tuple[_Group, ...]:
        book = runtime.dispatcher.book
        known = self._grouped
        if known is None or known[0] is not runtime or known[1] is not book:
            self._grouped, self._groups = (runtime, book), {}
        groups = self._groups.get(model)
        if groups is None:
            groups = self._groups[model] = _grouped(runtime, book, model)
        return groups


def _grouped(runtime: Runtime, book: RateSnapshot, model: str) -> tuple[_Group, ...]:
    names: dict[tuple[str | None, TokenRates | None], set[str]] = {}
    for state in runtime.scheduler.placements:
        facts = state.facts
        if facts.model == model:
            remote_class = facts.remote_class if facts.kind is PlacementKind.REMOTE else None
            key = (remote_class, book.rates.get(facts.name))
            names.setdefault(key, set()).add(facts.name)
    return tuple(
        _Group(names=frozenset(group), remote_class=remote_class, rates=rates)
        for (remote_class, rates), group in names.items()
    )


def _options(
    groups: Sequence[_Group], input_tokens: int, request: Request, *, goes_on: bool
) -> list[_Option]:
    output_tokens = request.max_output_tokens * request.choices
    if goes_on:  # another server may read the prompt again, and what was said
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
