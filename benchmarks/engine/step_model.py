"""Writes the tables and the picture of docs/step-model.md: predictions beside publications.

    python -m benchmarks.engine.step_model            # rewrites them; needs matplotlib
    python -m benchmarks.engine.step_model --check    # exit status 1 if tables are out of date

The measurement of a real vLLM in docs/step-times-vllm-cpu.json comes from tests/vllm/step_times.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.step_time.step_model import StepModel
from simulation.catalog.gpus import GPUS
from simulation.catalog.models import KNOWN, model_facts
from simulation.catalog.prior import CONSTANTS, Constants, prior
from simulation.catalog.real_memory import REAL_SERVERS, UNSEEN_SERVERS
from simulation.planner.published import (
    TPOT_TABLES,
    UNSEEN_ROWS,
    TpotTable,
    fitted,
    left_out,
    predicted_throughput,
    prior_of,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, PICTURE, MEASURED = (
    DOCS / "step-model.md",
    DOCS / "step-model.png",
    DOCS / "step-times-vllm-cpu.json",
)
BEGIN, END = "<!-- begin {} -->", "<!-- end {} -->"
GRID = {
    "bandwidth_share": (0.6, 0.7, 0.8, 0.9),
    "prefill_share": (0.15, 0.2, 0.25, 0.3, 0.4),
    "layer_s": (45e-6, 55e-6, 65e-6, 75e-6),
    "sequence_s": (10e-6, 20e-6, 40e-6, 80e-6),
}
"""Over which the constants are set anew without a table, to predict that one."""
FEWEST_BELOW = 2
"""Points with fewer clients from which a point is predicted."""


def sections() -> dict[str, str]:
    """The generated parts of the page, by name."""
    return {
        "points": _table(
            "server, clients>, published ms>, prior ms>, miss>, from the other points ms>, miss>, "
            "fitted to all>, from the points below>",
            _points(),
        ),
        "transfer": _table(
            "constants set on the others of its architecture to predict, worst miss>, mean miss>, "
            "worst with the constants in use>",
            _transfer(),
        ),
        "unseen": _table(
            "server, clients>, published tokens/s>, predicted>, miss>, tokens, source", _unseen()
        ),
        "measured": _table(
            "sequences>, engine's own TPOT ms>, fit ms>, miss>, stand-in prior ms>, "
            "client ms/token>",
            _measured(),
        ),
        "memory": _table(
            "server, settings, KV cache of one GPU GiB>, predicted GiB>, miss>, source", _memory()
        ),
        "catalog": _table(
            "model, computed total B>, published>, active B>, published>, KV bytes/token>, source",
            _catalog(),
        ),
    }


def _table(headers: str, rows: Iterator[tuple[str, ...]]) -> str:
    """Markdown; a header with a > behind it is of numbers."""
    names = [name.strip() for name in headers.split(",")]
    lines = [
        tuple(name.removesuffix(">") for name in names),
        tuple("---:" if name.endswith(">") else "---" for name in names),
        *rows,
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_sections(page: str, parts: dict[str, str]) -> str:
    """The page with its generated parts replaced."""
    for name, text in parts.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def _points() -> Iterator[tuple[str, ...]]:
    for table in TPOT_TABLES:
        start, whole = prior_of(table), fitted(table, table.points).model
        smaller: list[int] = []
        for clients, tpot_ms in table.points.items():
            first_ms = table.tpot_ms(start, clients)
            left_ms = table.tpot_ms(left_out(table, clients).model, clients)
            below = ""
            if len(smaller) >= FEWEST_BELOW:
                below_ms = table.tpot_ms(fitted(table, smaller).model, clients)
                below = f"{below_ms / tpot_ms - 1:+.1%}"
            yield (
                table.name,
                f"{clients}",
                f"{tpot_ms:.2f}",
                f"{first_ms:.2f}",
                f"{first_ms / tpot_ms - 1:+.1%}",
                f"{left_ms:.2f}",
                f"{left_ms / tpot_ms - 1:+.1%}",
                f"{table.tpot_ms(whole, clients) / tpot_ms - 1:+.1%}",
                below,
            )
            smaller.append(clients)


def _misses(table: TpotTable, constants: Constants) -> list[float]:
    model = prior(
        table.model,
        GPUS[table.gpu],
        table.parallelism,
        kv_value_bytes=table.kv_value_bytes,
        context_tokens=table.lengths.resident_tokens,
        constants=constants,
    )
    return [
        table.tpot_ms(model, clients) / tpot_ms - 1.0 for clients, tpot_ms in table.points.items()
    ]


def _transfer() -> Iterator[tuple[str, ...]]:
    for architecture, used in CONSTANTS.items():
        tables = [one for one in TPOT_TABLES if GPUS[one.gpu].architecture is architecture]
        if len(tables) < 2:
            continue
        candidates = [
            replace(used, **dict(zip(GRID, values, strict=True)))
            for values in product(*GRID.values())
        ]
        squares = [
            [float(np.mean(np.square(_misses(table, constants)))) for table in tables]
            for constants in candidates
        ]
        for number, table in enumerate(tables):
            others = [sum(row) - row[number] for row in squares]
            misses = np.abs(_misses(table, candidates[int(np.argmin(others))]))
            worst = np.abs(_misses(table, used)).max()
            yield table.name, f"{misses.max():.0%}", f"{misses.mean():.0%}", f"{worst:.0%}"


def _unseen() -> Iterator[tuple[str, ...]]:
    for row in UNSEEN_ROWS:
        predicted = predicted_throughput(row)
        yield (
            f"{row.model.name}, {row.tensor_parallel} x {row.gpu}",
            f"{row.clients}",
            f"{row.tokens_per_s:,.0f}",
            f"{predicted:,.0f}",
            f"{predicted / row.tokens_per_s - 1:+.0%}",
            row.kind,
            f"{row.source}; {row.note}" if row.note else row.source,
        )


def _measured() -> Iterator[tuple[str, ...]]:
    for point in json.loads(MEASURED.read_text())["points"]:
        engine_ms, fitted_ms = point["engine_tpot_ms"], point["fitted_tpot_ms"]
        yield (
            f"{point['concurrency']}",
            f"{engine_ms:.2f}",
            f"{fitted_ms:.2f}",
            f"{fitted_ms / engine_ms - 1:+.0%}",
            f"{point['prior_tpot_ms']:.2f}",
            f"{point['client_token_ms']:.2f}",
        )


def _memory() -> Iterator[tuple[str, ...]]:
    for row in (*REAL_SERVERS, *UNSEEN_SERVERS):
        used = "" if row in REAL_SERVERS else "unseen: "
        yield (
            f"{used}{row.model.name}, {row.parallelism.gpus} x {row.gpu}",
            row.settings,
            f"{row.kv_gib:.2f}",
            f"{row.predicted_kv_gib:.2f}",
            f"{row.miss:+.1%}" if row.kv_gib > 0 else f"{row.predicted_kv_gib - row.kv_gib:+.2f}",
            row.source,
        )


def _catalog() -> Iterator[tuple[str, ...]]:
    for name, known in KNOWN.items():
        model = model_facts(name)
        growing, late = model.kv_bytes_per_token(), model.kv_bytes_per_late_token()
        yield (
            name,
            f"{model.total_parameters / 1e9:,.1f}",
            f"{known.published_total:g}",
            f"{model.active_parameters / 1e9:.1f}",
            f"{known.published_active:g}",
            f"{growing:,.0f}" if growing == late else f"{growing:,.0f}, later {late:,.0f}",
            known.source,
        )


def draw(path: Path) -> None:
    """Published points with both predictions, and the measured server."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 2, figsize=(11.5, 15.0))
    for axis, table in zip(axes.flat, TPOT_TABLES, strict=False):
        _draw_table(axis, table)
    _draw_measured(axes.flat[len(TPOT_TABLES)])
    for axis in axes.flat:
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def _draw_table(axis: Any, table: TpotTable) -> None:
    clients = np.array(list(table.points))
    many = np.geomspace(clients.min(), clients.max(), 60)
    start, whole = prior_of(table), fitted(table, table.points).model

    def curve(model: StepModel) -> list[float]:
        return [table.tpot_ms(model, float(count)) for count in many]

    axis.plot(many, curve(start), color="#8d99ae", ls="--", label="prior, before any measurement")
    axis.plot(many, curve(whole), color="#2e86ab", label="fitted to these points")
    left = [table.tpot_ms(left_out(table, int(one)).model, int(one)) for one in clients]
    axis.plot(clients, left, "x", color="#2e86ab", label="each from the other points")
    axis.plot(clients, list(table.points.values()), "o", color="#d1495b", label="published")
    axis.set(title=table.name, xlabel="clients", ylabel="time per output token, ms")


def _draw_measured(axis: Any) -> None:
    measured = json.loads(MEASURED.read_text())
    windows, points = measured["windows"], measured["points"]
    counts = [point["concurrency"] for point in points]
    axis.plot(
        [seen["batch"] for seen in windows],
        [seen["step_ms"] for seen in windows],
        ".",
        color="#c5cfdb",
        label="windows that the fit saw",
    )
    for field, style, label in (
        ("engine_tpot_ms", {"marker": "o", "ls": "", "color": "#d1495b"}, "engine's mean"),
        ("fitted_tpot_ms", {"color": "#2e86ab"}, "fitted online"),
        ("prior_tpot_ms", {"color": "#8d99ae", "ls": "--"}, "stand-in prior"),
    ):
        axis.plot(counts, [point[field] for point in points], label=label, **style)
    axis.set(
        title="tiny MoE on vLLM's CPU build, two shared cores",
        xlabel="sequences",
        ylabel="time per output token, ms",
    )


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    args = parser.parse_args()
    page = PAGE.read_text()
    wanted = with_sections(page, sections())
    if args.check:
        return int(wanted != page)
    PAGE.write_text(wanted)
    draw(PICTURE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
