"""Rivals' scores on disk: they do not change while only our scheduler does.

A file a cell, under a name that also tells the sources that the result depends on: engine,
workloads and rivals, not the scheduler. So a stale one is never read, only left lying.
"""

from __future__ import annotations

import pickle
from functools import cache
from hashlib import blake2b
from pathlib import Path

from benchmarks.lab.runs import Run
from benchmarks.lab.score import Score

_ROOT = Path(__file__).parents[2]
_SOURCES = (
    *(
        "simulation/*.py",
        "simulation/engine/*.py",
        "simulation/catalog/*.py",
        "scheduler/step_time/step_model.py",
    ),
    *(f"benchmarks/lab/{name}.py" for name in ("fleets", "grid", "loads", "rivals", "score")),
)

Rivals = tuple[tuple[Run, Score], ...]


def kept(folder: Path | None, name: str) -> Rivals | None:
    """What was kept under `name` with these very sources."""
    if folder is None or not (path := _path(folder, name)).exists():
        return None
    found: Rivals = pickle.loads(path.read_bytes())
    return found


def keep(folder: Path | None, name: str, rivals: Rivals) -> None:
    """Keeps them for the next study."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _path(folder, name).write_bytes(pickle.dumps(rivals))


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}-{_sources_digest()}.pickle"


@cache
def _sources_digest() -> str:
    digest = blake2b(digest_size=6)
    for pattern in _SOURCES:
        for path in sorted(_ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()
