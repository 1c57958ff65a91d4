"""Keeps one scheduler's process running, with a spare beside it that can take its place at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from gateway.fronts.messages import SchedulerAnswer, SchedulerSetting
from gateway.fronts.processes import started

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "gateway.fronts.scheduler_process")
GOOD_S = 5.0
"""A scheduler that has run this long is replaced at once."""
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0
"""Bounds of the time before one that ends soon after its start is replaced."""
START_S = 60.0
"""Longest time for a scheduler to start."""
STOP_S = 20.0
"""Longest time for it to end, with its ledger."""


class SchedulerKeeper:
    """The scheduler's process. `run` keeps it running until `stop`."""

    def __init__(
        self, setting: SchedulerSetting, fronts: int, command: Sequence[str] = COMMAND
    ) -> None:
        """`setting`: of the first one. `fronts`: number of fronts that join."""
        self._setting = setting
        self._fronts = fronts
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._spare: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._stopping = asyncio.Event()
        self.ready = asyncio.Event()
        """Set when a scheduler has started once."""
        self.answer = SchedulerAnswer()
        """What the newest scheduler has said of its start."""

    @property
    def pid(self) -> int | None:
        """Process id of the scheduler; None: it does not run now."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def run(self) -> None:
        """Keeps the process running. Raises OSError if the first one cannot start."""
        loop = asyncio.get_running_loop()
        setting, wait_s = self._setting, FIRST_WAIT_S
        try:
            while not self._stopping.is_set():
                began_s = loop.time()
                error = await self._run_once(setting)
                if self._stopping.is_set():
                    return
                if not self.ready.is_set():
                    raise OSError(error)
                log.error("%s; another one takes its place, streams go on", error)
                setting = replace(setting, fronts_before=self._fronts)
                if loop.time() - began_s >= GOOD_S:
                    wait_s = FIRST_WAIT_S
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._stopping.wait()
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        finally:
            await self._end_spare()

    async def stop(self) -> None:
        """Ends the process after its fronts have ended."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await process.wait()
        self.kill()

    def kill(self) -> None:
        """Ends the process at once."""
        self._stopping.set()
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the scheduler, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _run_once(self, setting: SchedulerSetting) -> str:
        """Runs a scheduler to its end. Returns how it ended."""
        process = self._process = await self._next()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(msgspec.json.encode(setting) + b"\n")
            line = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_S):
                    line = await process.stdout.readline()
            if not line:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                return f"the scheduler's process did not start: status {await process.wait()}"
            answer = msgspec.json.decode(line, type=SchedulerAnswer)
            if answer.error:
                await process.wait()
                return answer.error
            self.answer = answer
            self.ready.set()
            self._spare = asyncio.create_task(started(self._command))
            status = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        return f"the scheduler's process ended with status {status}"

    async def _next(self) -> asyncio.subprocess.Process:
        """Returns the spare, if there is one that lives, or a new process."""
        spare, self._spare = self._spare, None
        if spare is not None:
            process = await spare
            if process.returncode is None:
                return process
        return await started(self._command)

    async def _end_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            process = await spare
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
