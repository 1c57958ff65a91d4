"""A plan as a figure of four panels. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moegate.cli.plan_arguments import PlanInput
from moegate.cli.views.pictures import new_figure
from simulation.planner.plan import Hybrid, Plan

SIZE_IN = (12.0, 8.5)
DOTS_PER_INCH = 110
INK, ACCENT, SECOND, GREY = "#1b3a4b", "#d1495b", "#2e86ab", "#8d99ae"


def save_png(given: PlanInput, plan: Plan, path: Path) -> None:
    """Draws the plan into a PNG file. Raises NoMatplotlib, or OSError if it cannot be written."""
    figure = new_figure(*SIZE_IN)
    axes = figure.subplots(2, 2)
    spread = given.parallelism
    figure.suptitle(
        f"{given.model.name} on {spread.gpus} x {given.gpu.name}, {given.workload}, "
        f"{plan.demand.mean_rate:.4g} requests/s",
        fontsize=13,
    )
    _latency(axes[0][0], plan)
    _cost(axes[0][1], plan)
    _demand(axes[1][0], plan)
    _replicas(axes[1][1], plan)
    for row in axes:
        for axis in row:
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=DOTS_PER_INCH, format="png")


def _latency(axis: Any, plan: Plan) -> None:
    load = [100 * row.load for row in plan.loads]
    axis.plot(load, [1e3 * row.state.tpot_s for row in plan.loads], color=INK, label="TPOT, ms")
    axis.axhline(1e3 * plan.slo.tpot_s, color=INK, ls=":", lw=1, label="TPOT limit")
    axis.plot(load, [row.state.batch for row in plan.loads], color=SECOND, label="batch")
    axis.set(title="latency and batch over load", xlabel="load of one replica, % of its capacity")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)


def _cost(axis: Any, plan: Plan) -> None:
    axis.set(title="dollars per million output tokens, all in", xlabel="load of one replica, %")
    if plan.floor is None:
        axis.text(0.5, 0.5, "price unknown", ha="center", transform=axis.transAxes)
        return
    load = [100 * row.load for row in plan.loads]
    costs = [row.costs for row in plan.loads if row.costs is not None]
    axis.plot(load, [cost.all_output for cost in costs], color=INK, label="own, all in")
    axis.plot(load, [cost.output for cost in costs], color=SECOND, label="own, decode time only")
    lengths = plan.demand.lengths
    for row, style in zip(plan.break_evens, ("--", "-.", ":"), strict=False):
        remote = 1e6 * row.remote_usd / lengths.output_tokens
        axis.axhline(remote, color=ACCENT, ls=style, label=f"{row.remote}, same request")
    axis.set_yscale("log")
    shown = axis.get_ylim()
    axis.set_yticks([digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)])
    axis.set_ylim(shown)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.legend(frameon=False)


def _demand(axis: Any, plan: Plan) -> None:
    rates = np.sort(plan.demand.rates)[::-1]
    share = np.linspace(0, 100, len(rates))
    axis.plot(share, rates, color=INK, label="demand")
    axis.set(
        title=f"demand in windows of {plan.demand.window_s:g} s, busiest first",
        xlabel="% of the time",
        ylabel="requests/s",
    )
    counts = {"own for the peak": plan.replicas_for_peak}
    if plan.hybrids:
        best = plan.hybrids[0].best.replicas
        counts = {f"{best} replicas, cheapest": best, **counts}
        line = best * plan.capacity.requests_per_s
        axis.fill_between(
            share, line, rates, where=rates > line, color=ACCENT, alpha=0.25, label="overflow"
        )
    for (name, count), color in zip(counts.items(), (ACCENT, GREY), strict=False):
        axis.axhline(count * plan.capacity.requests_per_s, color=color, ls="--", label=name)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)


def _replicas(axis: Any, plan: Plan) -> None:
    axis.set(title="dollars per hour over own replicas", xlabel="own replicas")
    if not plan.hybrids:
        axis.text(0.5, 0.5, "no remote prices given", ha="center", transform=axis.transAxes)
        return
    for hybrid, color in zip(plan.hybrids, (INK, SECOND, GREY), strict=False):
        _curve(axis, hybrid, color)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)


def _curve(axis: Any, hybrid: Hybrid, color: str) -> None:
    counts = [choice.replicas for choice in hybrid.choices]
    axis.plot(
        counts,
        [choice.usd_per_hour for choice in hybrid.choices],
        color=color,
        marker="." if len(counts) < 40 else None,
        label=f"overflow to {hybrid.remote}",
    )
    best = hybrid.best
    axis.plot([best.replicas], [best.usd_per_hour], "o", color=ACCENT)
    axis.annotate(
        f"{best.replicas}: {best.overflow_share:.0%} overflow",
        (best.replicas, best.usd_per_hour),
        textcoords="offset points",
        xytext=(8, -14),
        color=ACCENT,
    )
