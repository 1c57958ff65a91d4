"""Long work in slices, so that the event loop serves other requests in between.

Code that does long work is a generator: it yields between two short steps and returns its result.
It knows no event loop. `in_slices` runs it in one; `finish` runs it at once, for work that is known
to be short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

SLICE_S = 0.002
"""Work between two turns of the event loop, in seconds. One step may exceed it, so that steps are
to be a millisecond at most where the work can be divided."""

T = TypeVar("T")
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


async def in_slices(steps: Steps[T]) -> T:
    """Runs the steps, yields to the event loop after each slice, and returns the result. Also the
    last slice is followed by a turn of the loop, unless it was short."""
    ends_s = time.perf_counter() + SLICE_S
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            if time.perf_counter() >= ends_s:
                await asyncio.sleep(0)
            return result
        if time.perf_counter() >= ends_s:
            await asyncio.sleep(0)
            ends_s = time.perf_counter() + SLICE_S


async def in_one_slice(work: Callable[[], T]) -> T:
    """Runs work that cannot be divided, and yields to the event loop unless it was short."""
    ends_s = time.perf_counter() + SLICE_S
    result = work()
    if time.perf_counter() >= ends_s:
        await asyncio.sleep(0)
    return result
