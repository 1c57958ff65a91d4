"""A plan as tables, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moegate.cli.plan_arguments import PlanInput
from moegate.cli.views.fitted_table import FittedTable, number
from simulation.planner.chunks import ChunkAdvice, advise
from simulation.planner.economics import TokenCosts
from simulation.planner.plan import PEAK_QUANTILE, Hybrid, LoadRow, Plan

LARGE_USD, SMALL_RATE = 100.0, 10.0
QUANTILES = (0.5, 0.9, 0.99, 1.0)


def tables(given: PlanInput, plan: Plan) -> Group:
    """All tables and notes of a plan."""
    parts: list[RenderableType] = [_summary(given, plan), Text()]
    parts += [Text("one replica over its load"), _loads(plan)]
    if plan.break_evens:
        parts += [Text(), _break_evens(plan)]
    if plan.hybrids:
        parts += [Text(), _hybrids(plan)]
    return Group(*parts, Text(), Text("\n".join(_notes(plan))))


def as_json(given: PlanInput, plan: Plan) -> dict[str, Any]:
    """All figures; the demand is given by quantiles of its windows."""
    found = asdict(plan)
    rates = plan.demand.rates
    found["demand"] = {
        "workload": given.workload,
        "lengths": asdict(plan.demand.lengths),
        "window_s": plan.demand.window_s,
        "mean_requests_per_s": plan.demand.mean_rate,
        "quantiles_requests_per_s": {
            f"{share:g}": float(np.quantile(rates, share)) for share in QUANTILES
        },
    }
    found["model"] = given.model.name
    found["kv_capacity_tokens"] = asdict(given.kv_capacity)
    found["gpu"] = {"type": given.gpu.name, **asdict(given.parallelism)}
    found["capacity"]["requests_per_s"] = plan.capacity.requests_per_s
    return found


def _summary(given: PlanInput, plan: Plan) -> Table:
    spread, demand = given.parallelism, plan.demand
    lengths, state = demand.lengths, plan.capacity.state
    assert state is not None  # make_plan raises otherwise
    ranks = f" ({spread.data} ranks of {spread.tensor})" if spread.data > 1 else ""
    price = plan.replica.usd_per_hour
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column()
    rows = [
        ("replica", f"{given.model.name} on {spread.gpus} x {given.gpu.name}{ranks}, "
                    + ("price unknown" if price is None else f"${price:,.2f} an hour")),
        ("KV cache", f"{given.kv_capacity.tokens:,} tokens ({given.kv_capacity.least:,} to "
                     f"{given.kv_capacity.most:,} as servers differ) at "
                     f"--gpu-memory-utilization {given.server.memory_share:g}"),
        ("workload", f"{given.workload}: prompts of {lengths.prompt_tokens:,.0f} tokens "
                     f"({lengths.cached_tokens / lengths.prompt_tokens:.0%} cached), answers of "
                     f"{lengths.output_tokens:,.0f}"),
        ("demand", f"{demand.mean_rate:.4g} requests/s, busiest {demand.window_s:g} s "
                   f"{demand.peak_to_mean:.1f} times that"),
        ("service level", f"first token within {plan.slo.ttft_s:g} s, then one every "
                          f"{1e3 * plan.slo.tpot_s:g} ms"),
        ("one replica takes", f"{state.requests_per_s:.3g} requests/s: "
                              f"{state.requests_per_s * lengths.output_tokens:,.0f} output "
                              f"tokens/s at a batch of {state.batch:.3g}; the bound is "
                              f"{plan.capacity.bound}"),
        ("replicas needed", f"{plan.replicas_for_mean} for the mean, {plan.replicas_for_peak} for "
                            f"{PEAK_QUANTILE:.0%} of the minutes without overflow"),
    ]  # fmt: skip
    if plan.floor is not None and plan.saturated.state is not None:
        rows.append(
            (
                "saturated floor",
                f"${plan.floor.all_tokens:.4f}/M of all tokens at a batch of "
                f"{plan.saturated.state.batch:.0f}, whatever the latency",
            )
        )
    for row in rows:
        table.add_row(*row)
    return table


def _loads(plan: Plan) -> FittedTable:
    columns = [
        *(number("load"), number("req/s"), number("batch", leaves=3), number("TPOT ms")),
        *(number("TTFT ms", leaves=4), number("output\ntok/s", leaves=2)),
    ]
    if plan.floor is not None:
        columns += [
            *(number("$/M\ninput"), number("$/M\ncached", leaves=1), number("$/M\noutput")),
            *(number("idle\n$/h"), number("all in,\n$/M output")),
        ]
    table = FittedTable(columns)
    for row in plan.loads:
        costs = _cost_cells(row.costs) if row.costs else [""] * (len(columns) - 6)
        table.add_row(*_state_cells(plan, row), *costs[: len(columns) - 6])
    return table


def _state_cells(plan: Plan, row: LoadRow) -> tuple[str, ...]:
    state = row.state
    output = state.requests_per_s * plan.demand.lengths.output_tokens
    return (
        f"{row.load:.0%}",
        f"{state.requests_per_s:.3g}",
        f"{state.batch:.1f}",
        f"{1e3 * state.tpot_s:.1f}",
        f"{1e3 * state.ttft_s:,.0f}",
        f"{output:,.1f}" if output < SMALL_RATE else f"{output:,.0f}",
    )


def _cost_cells(costs: TokenCosts) -> tuple[str, ...]:
    return (
        _usd(costs.uncached_input),
        _usd(costs.cached_input),
        _usd(costs.output),
        f"{costs.idle:,.2f}",
        _usd(costs.all_output),
    )


def _usd(amount: float) -> str:
    """Formats dollars with four decimals, large amounts without any."""
    return f"{amount:.4f}" if amount < LARGE_USD else f"{amount:,.0f}"


def _break_evens(plan: Plan) -> Table:
    table = Table(title="break-even of an always-on replica", title_justify="left")
    table.add_column("remote")
    for header in ("remote $/1k req", "own, full, $/1k req", "own is cheaper above"):
        table.add_column(header, justify="right")
    for row in plan.break_evens:
        above = (
            f"{row.utilisation:.0%} load, {row.requests_per_s:.3g} req/s"
            if row.utilisation <= 1
            else f"never ({row.utilisation:.1f} x the remote at full load)"
        )
        table.add_row(row.remote, f"{1e3 * row.remote_usd:.3f}", f"{1e3 * row.own_usd:.3f}", above)
    return table


def _hybrids(plan: Plan) -> Table:
    table = Table(title="own replicas with overflow to a remote", title_justify="left")
    table.add_column("remote")
    for header in ("choice", "replicas", "overflow", "own utilisation", "$/h", "$/h own + remote"):
        table.add_column(header, justify="right")
    for hybrid in plan.hybrids:
        for name, row in _choices(hybrid):
            table.add_row(
                hybrid.remote if name == "cheapest" else "",
                name,
                f"{row.replicas}",
                f"{row.overflow_share:.1%}",
                f"{row.utilisation:.0%}",
                f"{row.usd_per_hour:,.2f}",
                f"{row.own_usd_per_hour:,.2f} + {row.remote_usd_per_hour:,.2f}",
            )
    return table


def _choices(hybrid: Hybrid) -> Iterator[tuple[str, Any]]:
    yield "cheapest", hybrid.best
    yield "all remote", hybrid.all_remote
    yield "own for the peak", hybrid.for_peak


def _notes(plan: Plan) -> Iterator[str]:
    yield (
        "Predicted from data sheets, within 25 % of published decode times (docs/step-model.md); "
        "means, so leave headroom for bursts shorter than a minute."
    )
    if plan.floor is not None:
        yield (
            "$/M of busy time: prefill time is paid by uncached prompt tokens, decode time by "
            "output. All in: the whole bill over the output."
        )
    else:
        yield "Costs need --usd-per-gpu-hour."
    state = plan.capacity.state
    advice = None if state is None else advise(plan.replica.model, plan.demand.lengths, state.batch)
    if advice is not None:
        yield _gaps(advice)


def _gaps(advice: ChunkAdvice) -> str:
    """What a mean prompt does to the streams beside it, and what helps."""
    found = f"A mean prompt stops every stream for {advice.gap_s:.2f} s at once. "
    if advice.chunk_tokens is None:
        return found + "No chunk is small enough: take engines that only prefill (disaggregated)."
    return found + (
        f"--max-num-batched-tokens {advice.chunk_tokens} keeps gaps at {advice.chunk_gap_s:.2f} s; "
        f"the prompt then takes {advice.slower:.0%} longer. Engines that only prefill "
        "(disaggregated) make none."
    )
