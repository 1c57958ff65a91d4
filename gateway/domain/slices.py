"""Long work in slices, so that the event loop serves other requests in between.

Code that does long work is a generator: it yields between two short steps and returns its result.
It knows no event loop. `in_slices` runs it in one; `finish` runs it at once, for work that is known
to be short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

SLICE_S = 0.002
"""Work between two turns of the event loop, in seconds. One step may exceed it, so that steps are
to be a millisecond at most where the work can be divided."""

T = TypeVar("T")
R = TypeVar("R")
Steps: TypeAlias = Generator[None, None, T]
"""Work that yields between its steps and returns a result."""


def finish(steps: Steps[T]) -> T:
    """Runs all steps at once and returns the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def one_by_one(items: Iterable[T], work: Callable[[T], R]) -> Steps[list[R]]:
    """Work on one item after the other, one in each step; returns what each of them gave."""
    results = []
    for item in items:
        results.append(work(item))
        yield
    return results


_WORKED_S: ContextVar[float] = ContextVar("moegate_worked_s", default=0.0)
"""Work of the current task since its last slice ended, in seconds. Several pieces of work in a row
share one slice."""


async def in_slices(steps: Steps[T]) -> T:
    """Runs the steps, yields to the event loop after each slice, and returns the result."""
    began_s = time.perf_counter() - _WORKED_S.get()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            await _end_of_work(began_s)
            return result
        if time.perf_counter() - began_s >= SLICE_S:
            await asyncio.sleep(0)
            began_s = time.perf_counter()


async def in_one_slice(work: Callable[[], T]) -> T:
    """Runs work that cannot be divided, and yields to the event loop if it fills the slice."""
    began_s = time.perf_counter() - _WORKED_S.get()
    result = work()
    await _end_of_work(began_s)
    return result


async def _end_of_work(began_s: float) -> None:
    worked_s = time.perf_counter() - began_s
    if worked_s >= SLICE_S:
        await asyncio.sleep(0)
        worked_s = 0.0
    _WORKED_S.set(worked_s)
