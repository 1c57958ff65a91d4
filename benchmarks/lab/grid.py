"""The cells of the laboratory, and the tuning of the rivals' caps in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.fleets import FLEETS
from benchmarks.lab.kept import keep, kept
from benchmarks.lab.loads import TRACES, load_trace
from benchmarks.lab.rivals import RIVALS
from benchmarks.lab.runs import Run, play
from benchmarks.lab.score import Score

LOADS = (0.3, 0.7, 0.9, 1.1, 1.4)
CAPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128)
TUNED_FROM = 0.9
"""Below this load a cap only takes room away: the short study plays rivals plain there."""
COARSE = 3
"""Every third cap is tried first, then the neighbours of the best."""
COUNTS = {
    ("qwen", "azure-conv"): 3000,
    ("qwen", "azure-code"): 3000,
    ("qwen", "mooncake"): 1000,
    ("qwen", "agents"): 700,
    ("deepseek", "azure-conv"): 3000,
    ("deepseek", "azure-code"): 3000,
    ("deepseek", "mooncake"): 1000,
    ("deepseek", "agents"): 500,
}
"""Requests of a run: at least half a minute of the load, many times what a request stays."""


NO_SWITCHES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A fleet under a workload at a load."""

    fleet: str
    trace: str
    load: float
    seed: int
    folder: Path | None

    def run(
        self, policy: str, cap: int | None = None, switches: Mapping[str, str] = NO_SWITCHES
    ) -> Run:
        """One run in this cell."""
        return Run(
            fleet=self.fleet,
            trace=self.trace,
            load=self.load,
            policy=policy,
            seed=self.seed,
            count=COUNTS[self.fleet, self.trace],
            folder=self.folder,
            cap=cap,
            switches=tuple(sorted(switches.items())),
        )


def cells(*, loads: Iterable[float], seeds: Sequence[int], folder: Path | None) -> list[Cell]:
    """All fleets and traces at these loads."""
    return [
        Cell(fleet=fleet, trace=trace, load=load, seed=seed, folder=folder)
        for fleet in FLEETS
        for trace in TRACES
        for load in loads
        for seed in seeds
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """Everything that was played in a cell, with scores.

    `ours` spreads (objective `latency`), `packed` is ours under objective `cost`.
    """

    cell: Cell
    ours: Score
    packed: Score
    rivals: tuple[tuple[Run, Score], ...]


def play_cell(cell: Cell, *, full: bool, keep_in: Path | None) -> CellResult:
    """Ours under both objectives; each rival plain, and with its caps tuned for this cell.

    `full` tunes every rival over all caps that matter. Without it the cap of least-request is
    tuned so, and the others get that one, too: it limits the same engines.
    `keep_in`: a folder for the rivals' scores, to be found by the next study.
    """
    source = "file" if load_trace(cell.trace, cell.folder).from_file else "generated"
    name = f"{cell.fleet}-{cell.trace}-{source}-{cell.load:g}-{cell.seed}-{'full' * full}"
    rivals = kept(keep_in, name)
    if rivals is None:
        rivals = _play_rivals(cell, full=full)
        keep(keep_in, name, rivals)
    return CellResult(
        cell=cell,
        ours=play(cell.run("ours")),
        packed=play(cell.run("ours", switches={"objective": "cost"})),
        rivals=rivals,
    )


def _play_rivals(cell: Cell, *, full: bool) -> tuple[tuple[Run, Score], ...]:
    found: list[tuple[Run, Score]] = []
    tuned: int | None = None
    for policy in ("least-request", *(name for name in RIVALS if name != "least-request")):
        plain = cell.run(policy)
        found.append((plain, play(plain)))
        if cell.load < TUNED_FROM and not full:
            continue
        if tuned is None or full:
            scores = _tune(cell, policy)
            tuned = max(scores, key=lambda index: scores[index][1].met_per_usd)
            found += scores.values()
        else:
            run = cell.run(policy, CAPS[tuned])
            found.append((run, play(run)))
    return tuple(found)


def _tune(cell: Cell, policy: str) -> dict[int, tuple[Run, Score]]:
    """Runs by index of their cap: coarse, then around the best until it is the best of its own."""
    tried: dict[int, tuple[Run, Score]] = {}

    def attempt(index: int) -> None:
        if 0 <= index < len(CAPS) and index not in tried:
            run = cell.run(policy, CAPS[index])
            tried[index] = run, play(run)

    for index in range(1, len(CAPS), COARSE):
        attempt(index)
    while True:
        best = max(tried, key=lambda index: tried[index][1].met_per_usd)
        before = len(tried)
        attempt(best - 1)
        attempt(best + 1)
        if len(tried) == before:
            return tried
