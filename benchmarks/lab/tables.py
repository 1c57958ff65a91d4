"""The study as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.lab.fleets import FLEETS
from benchmarks.lab.grid import LOADS, CellResult
from benchmarks.lab.runs import Run
from benchmarks.lab.score import Score
from benchmarks.lab.study import PACKING, PACKING_LOAD, Study

TARGETS: dict[float, tuple[float | None, ...]] = {
    0.9: (1.3, 1.2, None, None, None),
    1.1: (1.5, 1.3, None, None, None),
    1.4: (1.7, 1.35, None, None, None),
}
"""Geometric mean over cells, by load, of the first `METRICS`: ours over the best rival's."""
LEAST_RATIO = 0.99

Metric = Callable[[Score], float]


def requests_per_usd(score: Score) -> float:
    """SLO-met requests."""
    return score.met_per_usd


def tokens_per_usd(score: Score) -> float:
    """Their prompt and output tokens."""
    return score.tokens_per_usd


def output_per_usd(score: Score) -> float:
    """Their output tokens."""
    return score.output_per_usd


def drained_per_usd(score: Score) -> float:
    """SLO-met requests of the whole run, paid for to the end of the last."""
    return score.drained_per_usd


def share_met(score: Score) -> float:
    """Share of the requests; per dollar where all replicas are powered all the time."""
    return score.met


METRICS: dict[str, Metric] = {
    "requests per $": requests_per_usd,
    "tokens per $": tokens_per_usd,
    "output tokens per $": output_per_usd,
    "requests per $, tail paid": drained_per_usd,
    "share of requests": share_met,
}


def best(result: CellResult, metric: Metric) -> tuple[Run, Score]:
    """The best rival of a cell by `metric`, plain or with a cap."""
    return max(result.rivals, key=lambda found: metric(found[1]))


def _best_met(result: CellResult, *, capped: bool) -> str:
    shares = [score.met for run, score in result.rivals if (run.cap is not None) == capped]
    return f"{max(shares):.3f}" if shares else "-"


def ratio(result: CellResult, metric: Metric, *, packed: bool) -> float:
    """Ours over the best rival."""
    theirs = metric(best(result, metric)[1])
    return metric(result.packed if packed else result.ours) / theirs if theirs else math.inf


def markdown(found: Study) -> str:
    """All tables."""
    parts = [
        _summary(found.results),
        _shares(found.results),
        _details(found.results),
        _ablations(found),
        _conditions(found),
        _packing(found),
        _groups(found.results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(results: Sequence[CellResult]) -> str:
    rows = []
    for packed, objective in ((True, "cost"), (False, "latency")):
        for load in LOADS:
            at_load = [result for result in results if result.cell.load == load]
            if not at_load:
                continue
            targets = TARGETS.get(load, (None, None, None, None, None))
            cells = [objective, f"{load:.0%}", str(len(at_load))]
            for metric, target in zip(METRICS.values(), targets, strict=True):
                ratios = [ratio(result, metric, packed=packed) for result in at_load]
                mean = _geometric_mean(ratios)
                verdict = f" ({'met' if mean >= target else 'missed'}: {target})" if target else ""
                cells.append(f"{mean:.2f}{verdict}, least {min(ratios):.2f}")
            rows.append(cells)
    below = {
        packed: sum(ratio(one, requests_per_usd, packed=packed) < LEAST_RATIO for one in results)
        for packed in (True, False)
    }
    return (
        "Ours over the best rival of each cell (any policy, plain or with its cap tuned for the"
        " cell, picked for each figure anew), geometric mean over cells and the least of them;"
        " in brackets the target:\n\n"
        + _table(("objective", "load", "cells", *METRICS), rows)
        + f"\n\nCells below {LEAST_RATIO} of the best rival's requests per dollar, all loads:"
        f" {below[True]} of {len(results)} under `cost`, {below[False]} under `latency`."
    )


def _geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(ratio, 1e-9)) for ratio in ratios) / len(ratios))


def _shares(results: Iterable[CellResult]) -> str:
    by_row: dict[tuple[str, str, int], dict[float, CellResult]] = {}
    for result in results:
        cell = result.cell
        by_row.setdefault((cell.fleet, cell.trace, cell.seed), {})[cell.load] = result
    rows = []
    for (fleet, trace, seed), by_load in by_row.items():
        row = [f"{fleet}, {trace}" + (f", seed {seed}" if seed > 1 else "")]
        for load in LOADS:
            found = by_load.get(load)
            if found is None:
                row.append("")
                continue
            plain, capped = (_best_met(found, capped=capped) for capped in (False, True))
            row.append(f"{plain} / {capped} / **{found.ours.met:.3f}** / {found.packed.met:.3f}")
        rows.append(row)
    head = ("cell", *(f"{load:.0%}" for load in LOADS))
    return (
        "Share of requests within SLO: best plain rival / best capped / **ours, latency** / ours,"
        " cost:\n\n" + _table(head, rows)
    )


def _details(results: Iterable[CellResult]) -> str:
    rows = []
    for result in results:
        cell = result.cell
        rival = best(result, requests_per_usd)
        name = f"{cell.fleet}, {cell.trace}, {cell.load:.0%}, seed {cell.seed}"
        ours = (("**ours, latency**", result.ours), ("**ours, cost**", result.packed))
        for label, score in ((rival[0].label, rival[1]), *ours):
            rows.append([name, label, *_figures(score)])
            name = ""
    head = (
        *("cell", "policy", "met", "refused", "requests/$", "Mtok/$", "output ktok/$"),
        "TTFT p50 / p99 s",
        *("TPOT p50 / p99 ms", "hit rate", "KV balance", "batch", "powered"),
    )
    return "Best rival by requests per dollar, and ours:\n\n" + _table(head, rows)


def _figures(score: Score) -> list[str]:
    ttft, tpot = score.ttft_s, score.tpot_s
    return [
        f"{score.met:.3f}",
        f"{score.rejected:.3f}",
        f"{score.met_per_usd:.0f}",
        f"{score.tokens_per_usd / 1e6:.2f}",
        f"{score.output_per_usd / 1e3:.0f}",
        f"{ttft[0]:.2f} / {ttft[1]:.2f}",
        f"{tpot[0] * 1e3:.0f} / {tpot[1] * 1e3:.0f}",
        f"{score.hit_rate:.2f}",
        f"{score.kv_balance:.2f}",
        f"{score.batch:.0f}",
        f"{score.powered:.2f}",
    ]


def _ablations(found: Study) -> str:
    whole: dict[tuple[object, ...], Score] = {}
    rows: dict[str, list[str]] = {}
    heads: list[str] = []
    for run, score in found.ablations:
        key = (run.fleet, run.trace, run.load, run.seed)
        if not run.switches:
            whole[key] = score
            seed = f" s{run.seed}" if run.seed > 1 else ""
            heads.append(f"{run.fleet} {run.trace} {run.load:.0%}{seed}")
            continue
        [(part, _)] = run.switches
        with_it = whole[key].met
        loss = 1.0 - score.met / with_it if with_it else 0.0
        rows.setdefault(part, []).append(f"{loss:+.1%}")
    if not rows:
        return ""
    return "Loss of SLO-met requests without a part of ours:\n\n" + _table(
        ("without", *heads), [[part, *losses] for part, losses in rows.items()]
    )


def _conditions(found: Study) -> str:
    rows = []
    for (run, score), (without, loses) in zip(
        found.conditions[::2], found.conditions[1::2], strict=True
    ):
        [(part, _)] = without.switches
        condition = f"{run.patience:g} x as patient" if run.patience > 1.0 else ""
        if run.tpot_s is not None:
            condition = f"at most {run.tpot_s * 1e3:.0f} ms a token"
        cell = f"{run.fleet}, {run.trace}, {run.load:.0%}" + f", seed {run.seed}" * (run.seed > 1)
        shares = [f"{share:.3f}" for share in (score.met, loses.met)]
        rows.append([part, cell, condition, *shares])
    if not rows:
        return ""
    head = ("part", "cell", "clients", "within SLO with it", "without it")
    return "Parts under conditions in which they should matter:\n\n" + _table(head, rows)


def _packing(found: Study) -> str:
    names = {tuple(sorted(switches.items())): name for name, switches in PACKING.items()}
    rows = []
    spread: dict[tuple[str, str, int], float] = {}
    for run, score in found.packing:
        key = (run.fleet, run.trace, run.seed)
        spread.setdefault(key, score.powered)
        knee = FLEETS[run.fleet].step_model.touch_all_batch()
        rows.append(
            [
                f"{run.fleet}, {run.trace}" + (f", seed {run.seed}" if run.seed > 1 else ""),
                names[run.switches],
                f"{score.met:.3f}",
                f"{score.powered:.2f} ({score.powered / spread[key] - 1.0:+.0%})",
                f"{score.batch:.1f} of {knee:.0f}",
                f"{score.experts_per_token:.2f}",
                f"{score.tpot_s[0] * 1e3:.0f} / {score.tpot_s[1] * 1e3:.0f}",
                f"{score.met_per_usd:.0f}",
            ]
        )
    if not rows:
        return ""
    head = (
        *("cell", "ours", "met", "replicas powered", "mean batch of the knee"),
        *("experts per token", "TPOT p50 / p99 ms", "requests/$"),
    )
    return f"Packing and shaping at {PACKING_LOAD:.0%} load, 30 s release delay:\n\n" + _table(
        head, rows
    )


def _groups(results: Iterable[CellResult]) -> str:
    rows = []
    for result in results:
        cell = result.cell
        if cell.load not in TARGETS:
            continue
        row = [f"{cell.fleet}, {cell.trace}, {cell.load:.0%}, seed {cell.seed}"]
        for score in (best(result, requests_per_usd)[1], result.ours):
            tenants = sorted(score.by_tenant.values())
            row += [
                " / ".join(f"{share:.2f}" for share in score.by_class.values()),
                f"{tenants[0]:.2f} / {tenants[len(tenants) // 2]:.2f} / {tenants[-1]:.2f}",
            ]
        rows.append(row)
    head = ("cell", "rival: classes", "rival: tenants", "ours: classes", "ours: tenants")
    return (
        "Share within SLO by class (interactive / standard) and by tenant (worst / median / best):"
        "\n\n" + _table(head, rows)
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def lines() -> Iterator[str]:
        names = list(head)
        yield "| " + " | ".join(names) + " |"
        yield "|" + "---|" * len(names)
        for row in rows:
            yield "| " + " | ".join(row) + " |"

    return "\n".join(lines())
