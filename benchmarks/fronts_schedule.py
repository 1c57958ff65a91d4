"""The schedule with several fronts, in virtual time: share of the requests within their SLO.

The scheduler of production before the fleets of the laboratory, once in the process of its callers
and once behind the link of 1 to 8 fronts. See `benchmarks/lab/fronted.py` for what the link does.

    python -m benchmarks.fronts --schedule [--count 3000] [--workers 2]
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.lab.runs import Run, play

CELLS = (
    *(("qwen", load) for load in (0.9, 1.1, 1.3)),
    *(("deepseek", load) for load in (0.7, 0.9, 1.1)),
)
TRACE = "azure-conv"


def within_slo(run: Run) -> float:
    """Percent of the requests."""
    return 100.0 * play(run).met


def schedule(
    folder: Path | None, *, fronts: Sequence[int], count: int, seeds: Sequence[int], workers: int
) -> None:
    """Prints the table."""
    table = Table(title=f"share within SLO, %, {TRACE}, {count} requests, seeds {list(seeds)}")
    for head in ("fleet", "load", *(f"{n} fronts" if n else "no link" for n in fronts)):
        table.add_column(head, justify="right")
    runs = [
        Run(
            fleet=fleet,
            trace=TRACE,
            load=load,
            policy="ours",
            seed=seed,
            count=count,
            folder=folder,
            fronts=number,
        )
        for fleet, load in CELLS
        for number in fronts
        for seed in seeds
    ]
    with ProcessPoolExecutor(workers) as pool:
        found = iter(pool.map(within_slo, runs))
        for fleet, load in CELLS:
            means = [statistics.fmean([next(found) for _ in seeds]) for _ in fronts]
            print(fleet, load, *(f"{mean:.1f}" for mean in means), flush=True)
            table.add_row(fleet, f"{load:.1f}", *(f"{mean:.1f}" for mean in means))
    Console(width=100).print(table)
