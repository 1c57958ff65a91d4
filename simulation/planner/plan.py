"""The complete result of `moegate plan`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulation.planner.capacity import Bound, Capacity, Replica, Slo, capacity
from simulation.planner.demand import Demand
from simulation.planner.economics import (
    BreakEven,
    Owned,
    RemotePrice,
    TokenCosts,
    break_even,
    cheapest,
    owned,
    token_costs,
)
from simulation.planner.operating import Operating, at_rate

LOADS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Loads to show, as shares of a replica's capacity."""
PEAK_QUANTILE = 0.99
"""Windows that replicas without overflow must serve within their service levels."""


class CannotPlan(ValueError):
    """No plan exists; the text states the reason and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """One replica at a share of its capacity; `costs` is None where its price is unknown."""

    load: float
    state: Operating
    costs: TokenCosts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hybrid:
    """Self-hosted replicas with overflow to one remote.

    Attributes:
        best: the cheapest number of self-hosted replicas.
        all_remote: no self-hosted replica.
        for_peak: enough replicas that PEAK_QUANTILE of the windows need no remote.
        choices: every number from none to what the busiest window needs.
    """

    remote: str
    best: Owned
    all_remote: Owned
    for_peak: Owned
    choices: tuple[Owned, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """See the fields' classes.

    Attributes:
        capacity: of one replica within the service levels; `saturated`: whatever it takes.
        floor: costs when saturated, the least that a token can cost there; None: price unknown.
        replicas_for_mean, replicas_for_peak: without any overflow.
        loads: one replica at several loads.
    """

    demand: Demand
    replica: Replica
    slo: Slo
    capacity: Capacity
    saturated: Capacity
    floor: TokenCosts | None
    replicas_for_mean: int
    replicas_for_peak: int
    loads: tuple[LoadRow, ...]
    break_evens: tuple[BreakEven, ...]
    hybrids: tuple[Hybrid, ...]


def make_plan(demand: Demand, replica: Replica, slo: Slo, remotes: Sequence[RemotePrice]) -> Plan:
    """Raises CannotPlan where not even one request fits on a replica within `slo`."""
    lengths, price = demand.lengths, replica.usd_per_hour
    within = capacity(replica, lengths, slo)
    saturated = capacity(replica, lengths, None)
    if within.state is None or saturated.state is None:
        raise CannotPlan(_why(replica, demand, slo, saturated))
    most = saturated.state.batch
    loads = []
    for load in LOADS:
        rate = min(load * within.requests_per_s, saturated.requests_per_s)
        state = at_rate(replica.model, lengths, rate, most)
        assert state is not None  # at most what the largest batch takes
        costs = None if price is None else token_costs(state, lengths, price)
        loads.append(LoadRow(load=load, state=state, costs=costs))
    peak = float(np.quantile(demand.rates, PEAK_QUANTILE))
    per_s = within.requests_per_s
    priced = () if price is None else tuple(remotes)
    return Plan(
        demand=demand,
        replica=replica,
        slo=slo,
        capacity=within,
        saturated=saturated,
        floor=None if price is None else token_costs(saturated.state, lengths, price),
        replicas_for_mean=math.ceil(demand.mean_rate / per_s),
        replicas_for_peak=math.ceil(peak / per_s),
        loads=tuple(loads),
        break_evens=tuple(break_even(remote, lengths, price or 0.0, per_s) for remote in priced),
        hybrids=tuple(
            _hybrid(remote, demand, price or 0.0, per_s, math.ceil(peak / per_s))
            for remote in priced
        ),
    )


def _hybrid(
    remote: RemotePrice, demand: Demand, usd_per_hour: float, per_s: float, for_peak: int
) -> Hybrid:
    request_usd = remote.request_usd(demand.lengths)
    most = math.ceil(float(demand.rates.max()) / per_s)
    choices = tuple(
        owned(count, demand.rates, per_s, usd_per_hour, request_usd) for count in range(most + 1)
    )
    return Hybrid(
        remote=remote.name,
        best=cheapest(choices),
        all_remote=choices[0],
        for_peak=choices[for_peak],
        choices=choices,
    )


def _why(replica: Replica, demand: Demand, slo: Slo, saturated: Capacity) -> str:
    lengths = demand.lengths
    if saturated.bound is Bound.NOTHING_FITS:
        tokens = lengths.prompt_tokens + lengths.output_tokens
        return (
            f"a request of {tokens:,.0f} tokens does not fit into a KV cache of "
            f"{replica.kv_capacity_tokens:,} tokens: take more GPUs per replica"
        )
    alone = at_rate(replica.model, lengths, 1e-9, 1.0)
    assert alone is not None  # a rate close to zero is always sustainable
    return (
        f"a lone request has its first token after {alone.ttft_s:.2f} s (asked: {slo.ttft_s:g}) "
        f"and then one every {1e3 * alone.tpot_s:.1f} ms (asked: {1e3 * slo.tpot_s:g}): take more "
        "or faster GPUs per replica, or weaker service levels"
    )
