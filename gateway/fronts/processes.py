"""Starts the processes of the fronts, and starts those again that end.

A front that ends soon after its start is started again after a while that doubles, so that a front
that cannot start costs little.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 30.0
"""Bounds of the time before a front that has ended is started again."""
GOOD_S = 30.0
"""A front that has run this long begins with the shortest wait again."""
KILL_S = 10.0
"""Time beyond the drain's own bounds after which a front is killed."""
MAX_FRONTS = 64
"""Most fronts. One core of the scheduler is full before."""

READY_LINE = b"ready"

Command = Callable[[int], Sequence[str]]
"""Command line of the front with a number."""


def front_command(socket: Path) -> Command:
    """Returns the command lines of fronts that join at a socket."""
    module = "gateway.fronts.front_process"
    return lambda number: (sys.executable, "-m", module, str(socket), str(number))


async def started(command: Sequence[str]) -> asyncio.subprocess.Process:
    """Starts a process. Its standard input ends with this process. It tells on its standard output
    that it is ready."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)


class FrontProcesses:
    """The processes, by number from 1. `run` keeps them running until `stop`."""

    def __init__(self, count: int, command: Command) -> None:
        self._count = count
        self._command = command
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._ready: dict[int, asyncio.Event] = {n: asyncio.Event() for n in self.numbers}

    @property
    def numbers(self) -> range:
        """Numbers of the fronts."""
        return range(1, self._count + 1)

    def pid(self, number: int) -> int | None:
        """Returns the process id of a front; None: it does not run now."""
        process = self._running.get(number)
        return None if process is None else process.pid

    def notify_ready(self, number: int) -> None:
        """A front accepts calls."""
        if number in self._ready:
            self._ready[number].set()

    async def run(self) -> None:
        """Keeps all fronts running until `stop`. Raises OSError if one ends before it has ever
        accepted calls."""
        async with asyncio.TaskGroup() as group:
            for number in self.numbers:
                group.create_task(self._keep(number), name=f"moegate-front-{number}")

    async def until_ready(self) -> None:
        """Waits until every front has accepted calls once."""
        for event in self._ready.values():
            await event.wait()

    async def stop(self, hurry: asyncio.Event | None, bound_s: float) -> None:
        """Drains all fronts, and returns when they have ended. `hurry`: skips the waiting once set.
        `bound_s`: longest time of a drain; what has not ended soon after it is killed."""
        self._stopping.set()
        waiting = {asyncio.ensure_future(p.wait()) for p in self._running.values()}
        if not waiting:
            return
        self._signal(signal.SIGTERM)
        hurrying = None if hurry is None else asyncio.ensure_future(hurry.wait())
        everything = asyncio.ensure_future(asyncio.wait(waiting))
        try:
            ends = {everything} if hurrying is None else {everything, hurrying}
            await asyncio.wait(ends, timeout=bound_s + KILL_S, return_when=asyncio.FIRST_COMPLETED)
            if not everything.done():
                self._signal(signal.SIGTERM)
                await asyncio.wait({everything}, timeout=KILL_S)
            if not everything.done():
                log.error("fronts do not end, they are killed")
                self._signal(signal.SIGKILL)
                await everything
        finally:
            everything.cancel()
            if hurrying is not None:
                hurrying.cancel()

    def kill(self) -> None:
        """Ends all fronts at once, without a drain."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set():
            began_s = loop.time()
            status = await self._run_once(number)
            if self._stopping.is_set():
                return
            if not self._ready[number].is_set():
                raise OSError(f"front {number} ended with status {status} before it could serve")
            if loop.time() - began_s >= GOOD_S:
                wait_s = FIRST_WAIT_S
            log.error(
                "front %d ended with status %d, its requests have ended with it; it is started"
                " again in %g s",
                *(number, status, wait_s),
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _run_once(self, number: int) -> int:
        """Runs a process to its end, and returns its status. It does not outlive this task."""
        starting = asyncio.ensure_future(started(self._command(number)))
        try:
            process = await asyncio.shield(starting)
            self._running[number] = process
            if self._stopping.is_set():  # too late to hear of it by a signal
                process.kill()
            assert process.stdout is not None
            while line := await process.stdout.readline():
                if line.strip() == READY_LINE:
                    self.notify_ready(number)
            return await process.wait()
        except asyncio.CancelledError:
            process = await starting
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        finally:
            self._running.pop(number, None)
