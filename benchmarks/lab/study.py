"""The whole study: every cell, the ablations, packing and shaping, spread over processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.lab.grid import LOADS, Cell, CellResult, cells, play_cell
from benchmarks.lab.loads import TRACES, load_trace
from benchmarks.lab.runs import Run, play
from benchmarks.lab.score import Score

_Played = TypeVar("_Played")

PARTS = ("late_binding", "moe_term", "interference_check", "shedding", "prefix")
"""Parts of ours that an ablation turns off, one at a time; see `ours.py`."""
VARIANT_CELLS = (("qwen", "azure-conv"), ("qwen", "mooncake"), ("deepseek", "azure-conv"))
"""Where the short study plays ablations and packing; the full one does so everywhere."""
ABLATION_LOADS = (0.9, 1.4)
PACKING_LOAD = 0.3
PACKING_COUNT_FACTOR = 2
"""Packing runs are longer: replicas are released 30 s after their last work."""
PACKING = {
    "spread (latency)": {"objective": "latency"},
    "packed (cost)": {"objective": "cost"},
    "packed, no shaping": {"objective": "cost", "shaping": "False"},
    "packed, no MoE term": {"objective": "cost", "moe_term": "False"},
}


TIGHT_TPOT_S = 0.016
"""For Qwen: a third of its limit, kept only in small batches, where few experts are touched."""
PATIENCE = 10.0
"""Clients that wait on, though their time to first token is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All results. Ablations, conditions and packing: pairs of what was run and its score."""

    results: tuple[CellResult, ...]
    ablations: tuple[tuple[Run, Score], ...]
    conditions: tuple[tuple[Run, Score], ...]
    packing: tuple[tuple[Run, Score], ...]
    took_s: float
    sources: dict[str, bool]


def study(
    folder: Path | None,
    *,
    full: bool,
    seeds: Sequence[int],
    workers: int,
    only: Sequence[str] = (),
    variants: bool = True,
    keep_in: Path | None = None,
) -> Study:
    """Plays everything.

    `seeds`: of the runs; `full`: every rival is tuned by itself, and parts are shown everywhere;
    `only`: fleets or traces to keep, empty: all; `variants`: ablations and packing, too;
    `keep_in`: see `play_cell`.
    """
    began_s = time.perf_counter()

    def wanted(cell: Cell) -> bool:
        return not only or cell.fleet in only or cell.trace in only

    grid = [c for c in cells(loads=LOADS, seeds=seeds, folder=folder) if wanted(c)]
    parts, packing = _variants(grid, full=full) if variants else ([], [])
    conditions = _conditions(grid) if variants else []
    with ProcessPoolExecutor(workers) as pool:
        results = _collect(
            pool.map(partial(play_cell, full=full, keep_in=keep_in), grid), len(grid), "cells"
        )
        ablated = _collect(pool.map(play, parts), len(parts), "ablations")
        under = _collect(pool.map(play, conditions), len(conditions), "conditions")
        packed = _collect(pool.map(play, packing), len(packing), "packing runs")
    return Study(
        results=tuple(results),
        ablations=tuple(zip(parts, ablated, strict=True)),
        conditions=tuple(zip(conditions, under, strict=True)),
        packing=tuple(zip(packing, packed, strict=True)),
        took_s=time.perf_counter() - began_s,
        sources={name: load_trace(name, folder).from_file for name in TRACES},
    )


def _variants(grid: Sequence[Cell], *, full: bool) -> tuple[list[Run], list[Run]]:
    """Runs of ours without a part each, and those of packing."""
    parts: list[Run] = []
    packing: list[Run] = []
    for cell in grid:
        if not full and (cell.fleet, cell.trace) not in VARIANT_CELLS:
            continue
        if cell.load in ABLATION_LOADS:
            parts.append(cell.run("ours"))
            parts += (cell.run("ours", switches={part: "False"}) for part in PARTS)
        if cell.load == PACKING_LOAD:
            runs = (cell.run("ours", switches=switches) for switches in PACKING.values())
            packing += (replace(run, count=run.count * PACKING_COUNT_FACTOR) for run in runs)
    return parts, packing


def _conditions(grid: Sequence[Cell]) -> list[Run]:
    """Runs with and without a part under conditions in which it should matter."""
    runs: list[Run] = []
    for cell in grid:
        if cell.fleet == "qwen" and cell.trace == "azure-conv" and cell.load in (0.3, 0.7):
            for part in ({}, {"moe_term": "False"}):
                runs.append(replace(cell.run("ours", switches=part), tpot_s=TIGHT_TPOT_S))
        if cell.fleet == "qwen" and cell.trace != "agents" and cell.load == ABLATION_LOADS[-1]:
            for part in ({}, {"shedding": "False"}):
                runs.append(replace(cell.run("ours", switches=part), patience=PATIENCE))
    return runs


def _collect(found: Iterable[_Played], count: int, what: str) -> list[_Played]:
    """All of them, with progress on stderr."""
    played = []
    for number, one in enumerate(found, 1):
        played.append(one)
        print(f"\r{number} of {count} {what}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return played
