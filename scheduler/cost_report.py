"""What a pool's tokens cost: three rates by kind of token, from what the meter has summed.

    allocated   all paid time over all tokens, idle inside: the parts of a kind are in proportion
                to what the meter gave to it, so that rates x tokens sum to the bill
    saturated   the same over the best minute that kept its SLO: the floor of this machine
    marginal    one more token now, on the group where it costs least

In a disaggregated pool the nodes decide: prefill nodes over input, decode nodes over output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scheduler.cost import GroupMeter
from scheduler.cost_rates import PhaseLoad, RateKind
from scheduler.cost_runs import NodeShare
from scheduler.cost_totals import UNIT, Totals

MILLION = 1_000_000
SLO_SHARE = 0.95
"""Of the requests of a minute that must keep their SLO for it to count as the floor."""
MARGINAL_PROMPT_TOKENS = 1000
"""Prompt that a marginal price is quoted for until the pool has seen requests."""

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
    """Share of its requests; None: none ended."""


def tokens_of(totals: Totals) -> tuple[int, int, int]:
    """Tokens in the order of `KINDS`."""
    return totals.uncached_tokens, totals.cached_tokens, totals.output_tokens


def direct_cost(totals: Totals) -> tuple[int, int, int]:
    """What requests accrued, in the order of `KINDS`; never below 0 within a window."""
    return max(0, totals.prefill - totals.cached), max(0, totals.cached), max(0, totals.decode)


def allocated(window: Totals, nodes: NodeShare | None) -> dict[RateKind, int]:
    """Allocated rates; kinds without tokens are absent. TOTAL is over all tokens."""
    tokens, bill = tokens_of(window), window.accrued
    rates: dict[RateKind, int] = {}
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


def best_minute(minutes: Iterable[Totals]) -> Totals | None:
    """The minute with the least cost per work of those that kept their SLO; None: there is none.

    Work counts each kind of token by what it has cost over all these minutes, so that a minute
    does not win by its mix of tokens.
    """
    rows = list(minutes)
    weights = []
    for index in range(len(KINDS)):
        count = sum(tokens_of(row)[index] for row in rows)
        cost = sum(direct_cost(row)[index] for row in rows)
        weights.append(cost / count if count else 0.0)
    best: tuple[float, Totals] | None = None
    for row in rows:
        work = sum(w * count for w, count in zip(weights, tokens_of(row), strict=True))
        if work <= 0 or not row.slo_known or row.slo_met < SLO_SHARE * row.slo_known:
            continue
        cost_per_work = row.accrued / work
        if best is None or cost_per_work < best[0]:
            best = (cost_per_work, row)
    return None if best is None else best[1]


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
    minutes: Iterable[Totals],
    groups: Iterable[GroupMeter],
    nodes: NodeShare | None,
) -> tuple[KindRates, ...]:
    """All rates of a pool. `minutes`: of the last day, for the saturated floor."""
    best = best_minute(minutes)
    now = allocated(window, nodes)
    floor = {} if best is None else allocated(best, nodes)
    more = marginal(groups, window)
    return tuple(
        KindRates(
            kind=kind,
            allocated=now.get(kind),
            saturated=floor.get(kind),
            marginal=more.get(kind),
        )
        for kind in (*KINDS, RateKind.TOTAL)
    )


def load_points(minutes: Iterable[tuple[int, Totals]]) -> list[LoadPoint]:
    """Minutes with tokens, as load and cost. `minutes`: time and sums at the end of each."""
    points = []
    for (start_ns, first), (end_ns, last) in pairwise(minutes):
        row = last.minus(first)
        tokens = sum(tokens_of(row))
        if tokens <= 0 or row.output_tokens < 0 or not row.paid_ns:
            continue
        elapsed_s = (end_ns - start_ns) / 1e9
        points.append(
            LoadPoint(
                tokens_per_s=tokens / elapsed_s,
                output_tokens_per_s=row.output_tokens / elapsed_s,
                nano_usd_per_mtok=row.accrued * MILLION // (tokens * UNIT),
                utilisation=row.busy_ns / row.paid_ns,
                slo_met=row.slo_met / row.slo_known if row.slo_known else None,
            )
        )
    return points


def phase_load(window: Totals, groups: Sequence[GroupMeter]) -> PhaseLoad | None:
    """Load of the stages of a disaggregated pool; None: nothing is known of its capacity.

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
