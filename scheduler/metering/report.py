"""Cost of a pool's tokens: three rates per kind of token, from the sums of the meter.

    allocated   all paid time over all tokens, idle time included; kinds share in proportion to
                what the meter booked to them, so that rates x tokens sum to the bill
    saturated   the same over the best minute that kept its SLO: the lowest cost of this pool
    marginal    one more token now, on the group where it costs least

In a disaggregated pool prefill nodes are divided by input, decode nodes by output tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler.metering.cost import GroupMeter
from scheduler.metering.rates import PhaseLoad, RateKind
from scheduler.metering.runs import NodeShare
from scheduler.metering.totals import UNIT, Totals

MILLION = 1_000_000
SLO_SHARE = 0.95
"""Share of a minute's requests that must keep their SLO for the minute to count as saturated."""
MARGINAL_PROMPT_TOKENS = 1000
"""Prompt tokens assumed for the marginal rate until the pool has seen requests."""

KINDS = (RateKind.UNCACHED_INPUT, RateKind.CACHED_INPUT, RateKind.OUTPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRates:
    """Nano-USD per million tokens of one kind; None: not known."""

    kind: RateKind
    allocated: int | None
    saturated: int | None
    marginal: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """One minute: tokens per second of all kinds, and what a million of them cost."""

    tokens_per_s: float
    output_tokens_per_s: float
    nano_usd_per_mtok: int
    utilisation: float
    slo_met: float | None
    """Share of its requests that kept their SLO; None if none ended."""


def tokens_of(totals: Totals) -> tuple[int, int, int]:
    """Tokens in the order of `KINDS`."""
    return totals.uncached_tokens, totals.cached_tokens, totals.output_tokens


def direct_cost(totals: Totals) -> tuple[int, int, int]:
    """What requests accrued, in the order of `KINDS`; never below 0 within a window."""
    return max(0, totals.prefill - totals.cached), max(0, totals.cached), max(0, totals.decode)


def allocated(window: Totals, nodes: NodeShare | None) -> dict[RateKind, int]:
    """Allocated rates; kinds without tokens are absent, and all where no price is known. TOTAL is
    over all tokens."""
    tokens, bill = tokens_of(window), window.accrued
    rates: dict[RateKind, int] = {}
    if not bill and window.unpriced_ns:
        return rates
    if sum(tokens):
        rates[RateKind.TOTAL] = bill * MILLION // (sum(tokens) * UNIT)
    for kind, count, part in zip(KINDS, tokens, _parts(window, nodes), strict=True):
        if count and part is not None:
            rates[kind] = part * MILLION // (count * UNIT)
    return rates


def _parts(window: Totals, nodes: NodeShare | None) -> tuple[int | None, ...]:
    """The bill by kind."""
    costs, bill = direct_cost(window), window.accrued
    if nodes is None:
        whole = sum(costs)
        return tuple(bill * cost // whole if whole else None for cost in costs)
    prefill = bill * nodes.prefill // (nodes.prefill + nodes.decode)
    read = costs[0] + costs[1]
    cached = prefill * costs[1] // read if read else 0
    return prefill - cached, cached, bill - prefill


def marginal(groups: Iterable[GroupMeter], window: Totals) -> dict[RateKind, int]:
    """What one more request would cost per million tokens, on the cheapest group in service.

    An idle group costs T(1) for a token: opening it is what the request would do.
    """
    requests = max(1, window.ended)
    uncached = window.uncached_tokens // requests or MARGINAL_PROMPT_TOKENS
    cached = window.cached_tokens // requests
    found: dict[RateKind, int] = {}
    for group in groups:
        if not group.serving or group.rate is None or group.model is None:
            continue
        model, per_s = group.model, group.rate / 3600
        batch, kv_tokens = group.decoding
        batch += group.external.sequences
        kv_tokens += group.external.kv_tokens
        context = uncached + cached
        step_s = model.marginal_step_s(batch, kv_tokens, context) / model.tokens_per_step
        alone_s = model.prefill_time_s(uncached, uncached)
        figures = {
            RateKind.UNCACHED_INPUT: alone_s / uncached,
            RateKind.OUTPUT: step_s,
        }
        if cached:
            whole_s = model.prefill_time_s(uncached, context)
            figures[RateKind.CACHED_INPUT] = (whole_s - alone_s) / cached
        for kind, seconds in figures.items():
            rate = round(seconds * per_s * MILLION)
            found[kind] = min(rate, found.get(kind, rate))
    return found


def kind_rates(
    window: Totals,
    best: Totals | None,
    groups: Iterable[GroupMeter],
    nodes: NodeShare | None,
) -> tuple[KindRates, ...]:
    """All rates of a pool. `best`: minute of the last day, for the saturated floor."""
    now = allocated(window, nodes)
    floor = {} if best is None else allocated(best, nodes)
    more = marginal(groups, window)
    return tuple(
        KindRates(
            kind=kind,
            allocated=now.get(kind),
            saturated=_floor(floor.get(kind), None if window.unpriced_ns else now.get(kind)),
            marginal=more.get(kind),
        )
        for kind in (*KINDS, RateKind.TOTAL)
    )


def _floor(best: int | None, mean: int | None) -> int | None:
    """The least that tokens of a kind cost: a window that costs less than the best whole minute has
    a mean below it, and is a lower cost itself."""
    return best if best is None or mean is None else min(best, mean)


def load_point(brought: Totals, elapsed_ns: int) -> LoadPoint | None:
    """Load and cost of one minute. None if it had no tokens or no paid time, or if the price was
    unknown for part of it."""
    tokens = sum(tokens_of(brought))
    unknown = brought.unpriced_ns or not brought.paid_ns
    if tokens <= 0 or brought.output_tokens < 0 or unknown:
        return None
    elapsed_s = elapsed_ns / 1e9
    return LoadPoint(
        tokens_per_s=tokens / elapsed_s,
        output_tokens_per_s=brought.output_tokens / elapsed_s,
        nano_usd_per_mtok=brought.accrued * MILLION // (tokens * UNIT),
        utilisation=brought.busy_ns / brought.paid_ns,
        slo_met=brought.slo_met / brought.slo_known if brought.slo_known else None,
    )


def phase_load(window: Totals, groups: Sequence[GroupMeter]) -> PhaseLoad | None:
    """Load of the stages of a disaggregated pool; None if its capacity is unknown.

    Prefill is busy or not; decode has its largest batch as capacity, for a batch of one keeps the
    nodes as busy as a full one.
    """
    capacity = 0.0
    for group in groups:
        if group.model is not None:
            step_s = group.model.decode_step_s(group.max_running, 0)
            capacity += group.max_running * group.model.tokens_per_step / step_s
    paid_s = window.paid_ns / 1e9
    if not capacity or not paid_s:
        return None
    count = max(1, len(groups))
    return PhaseLoad(
        prefill=window.prefill_busy_ns / window.paid_ns,
        decode=max(0, window.output_tokens) / (paid_s / count) / capacity,
    )
