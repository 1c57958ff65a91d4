"""An event loop whose time is virtual: it never waits, and jumps to the next timer instead."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")
MOST_S = 3600.0
"""Virtual time that a test may take: the scheduler's ticks alone would go on for ever."""


class _JumpingSelector(selectors.SelectSelector):
    """Selects without waiting; the time that it would have waited is added to `waited_s`."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise RuntimeError("everything waits, and no timer runs: this would never end")
            self.waited_s += max(0.0, timeout)
            if self.waited_s > MOST_S:
                raise RuntimeError("only timers run, for an hour: this would never end")
        return found


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Begins at 0 s. Fails where everything waits for ever. No threads, no sockets."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.waited_s


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an asynchronous test in a loop of its own, whose time is virtual."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
