"""Faults of the whole server: a closed listener and a crash."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from moegate.simulated_vllm.faults.draws import Drawn, FaultDraws
from moegate.simulated_vllm.faults.kinds import Fault, Faults
from moegate.simulated_vllm.listener import Listener

CRASH_DELAY_S = 0.05
"""Delay before a crash, in which the event loop writes the tokens that precede the crash."""


class FaultDriver:
    """Applies the faults of the whole server over time.

    `die`: ends the process on a crash; None: a crash aborts all connections.
    """

    def __init__(self, faults: Faults, die: Callable[[], None] | None) -> None:
        self._die = die
        self._clock = asyncio.get_running_loop().time
        self._changed = asyncio.Event()
        self.faults = faults

    @property
    def faults(self) -> Faults:
        """The injected faults. Setting them restarts their counts and clock, and opens the
        listener."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._draws = FaultDraws(faults, self._clock())
        self._closed_until_s = -math.inf
        self._crashed = False
        self._changed.set()

    def draw(self) -> Drawn:
        """Draws the faults of the next request."""
        return self._draws.draw(self._clock())

    def refuse(self, fault: Fault) -> None:
        """Closes the listener for the time of the fault, or for good."""
        self._closed_until_s = self._clock() + (fault.seconds or math.inf)
        self._changed.set()

    async def crash(self) -> None:
        """Ends the server. Never returns: the caller's own connection is aborted, too."""
        await asyncio.sleep(CRASH_DELAY_S)
        self._crashed = True
        self._changed.set()
        await asyncio.Event().wait()

    async def run(self, listener: Listener) -> None:
        """Opens and closes the listener until cancelled."""
        while True:
            self._changed.clear()
            now_s = self._clock()
            if self._crashed or self._draws.is_crash_due(now_s):
                if self._die is not None:
                    self._die()
                self._crashed = True
                await listener.break_off()
            elif now_s < self._closed_until_s or self._draws.refuses(now_s):
                await listener.close()
            elif not listener.is_open:
                await listener.reopen()
            await self._until_due(now_s)

    async def _until_due(self, now_s: float) -> None:
        due_s = self._draws.next_change_s(now_s)
        if now_s < self._closed_until_s:
            due_s = min(due_s, self._closed_until_s)
        try:
            async with asyncio.timeout_at(due_s if due_s < math.inf else None):
                await self._changed.wait()
        except TimeoutError:
            pass
