"""The processes of the demo, each in its own process group.

Leaving the context of `Processes` ends all of them with SIGTERM, and with SIGKILL if that does not
help. If the demo is killed, `moegate/demo/process_reaper.py` does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from moegate.demo.process_reaper import REAPER_COMMAND

POLL_S = 0.05
READY_S = 120.0
"""Generous, because the import of grpc and numpy takes long on a busy machine."""
STOP_S = 15.0
"""Time between SIGTERM and SIGKILL; more than the gateway's drain takes."""
LOG_TAIL_LINES = 15


class ProcessFailed(Exception):
    """A process ended early or did not become ready. The text has the end of its log."""


class Process:
    """One process with its output in a log file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.was_killed = False
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.returncode

    @property
    def ended_cleanly(self) -> bool:
        """Whether it ended with the expected status."""
        return self.exit_status == (-signal.SIGKILL if self.was_killed else 0)

    async def wait_for_line(self, pattern: str) -> str:
        """Waits for a line that matches `pattern`, and returns group 1.

        Raises ProcessFailed if the process ends first, or after `READY_S`.
        """
        wanted = re.compile(pattern)
        for _ in range(round(READY_S / POLL_S)):
            match = wanted.search(self._log.read_text(errors="replace"))
            if match:
                return match[1]
            if self.exit_status is not None:
                raise ProcessFailed(f"{self.name} ended with {self.exit_status}:\n{self.tail()}")
            await asyncio.sleep(POLL_S)
        raise ProcessFailed(f"{self.name} was not ready within {READY_S:g} s:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])

    def kill(self) -> None:
        """Kills the process, like a crash."""
        self.was_killed = True
        self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """Ends the process with SIGTERM, and with SIGKILL after `STOP_S`."""
        if self.exit_status is None:
            self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Processes:
    """Starts processes. Leaving the context ends them, the last one (the gateway) first."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._reaper: asyncio.subprocess.Process | None = None
        self._pipe = -1
        self.all: list[Process] = []

    async def __aenter__(self) -> Processes:
        read_end, self._pipe = os.pipe()
        try:
            self._reaper = await asyncio.create_subprocess_exec(
                *REAPER_COMMAND, stdin=read_end, start_new_session=True
            )
        finally:
            os.close(read_end)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Process:
        """Starts `moegate ARGUMENTS`, with additions to the environment."""
        log = self._log_dir / f"{len(self.all)}.log"
        with log.open("wb") as output:
            child = await asyncio.create_subprocess_exec(
                *(*REAPER_COMMAND, "run", str(self._pipe)),
                *(sys.executable, "-m", "moegate", *arguments),
                pass_fds=(self._pipe,),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                # With a new session, Ctrl-C in a terminal reaches only the demo, which ends the
                # others in order.
                start_new_session=True,
            )
        process = Process(name, child, log)
        self.all.append(process)
        return process

    async def stop(self) -> None:
        """Ends the last process, then the others together, then the reaper. May be called twice."""
        await asyncio.gather(*(self._stop(process) for process in self.all[-1:]))
        await asyncio.gather(*(self._stop(process) for process in self.all[:-1]))
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self._reaper is not None:
            await self._reaper.wait()

    async def _stop(self, process: Process) -> None:
        await process.stop()
        if self._pipe >= 0:
            # Another process may get this id now. The reaper may have ended already.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, b"forget %d\n" % process.pid)
