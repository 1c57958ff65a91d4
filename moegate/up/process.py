"""Process groups that end with moegate: at a regular end, at an exception, or when it is killed.

vLLM's workers survive the end of its API server, so that moegate always ends the whole group. It
reaps the leader only afterwards: until then no other process can get the leader's process id, which
is also the id of the group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from moegate.up.process_reaper import REAPER_COMMAND

POLL_S = 0.1
TAIL_LINES = 40
TAIL_BYTES = 64 * 1024
COLLECT_S = 10.0
"""Time that a killed process may take to end: the memory of a GPU is not freed at once."""


class ProcessGroup:
    """One process group with its output in a log file. Made by `ProcessReaper.start`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Process id of the leader, which is also the id of its group and session."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status of the leader. None: it runs; negative: the signal that ended it."""
        if self._process.returncode is not None:
            return self._process.returncode
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        ended = os.waitid(os.P_PID, self.pid, options)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self._last_lines()
        return "\n".join([f"--- end of {self.log}", *(f"  {line}" for line in lines)])

    @property
    def last_line(self) -> str:
        """The last line of the log that is not blank, with single spaces."""
        words = (line.split() for line in reversed(self._last_lines()))
        return next((" ".join(some) for some in words if some), "")

    async def wait(self) -> int:
        """Waits until the leader ends; returns its exit status."""
        while True:
            if (status := self.exit_status) is not None:
                return status
            await asyncio.sleep(POLL_S)

    async def stop(self, limit_s: float, hurry: asyncio.Event) -> None:
        """Sends SIGTERM to the leader, which ends its workers. Kills the rest of the group after
        `limit_s`, when `hurry` is set, or when this coroutine is cancelled."""
        try:
            if self.exit_status is None:
                # Not to the group: workers that end first would cut off streams that could finish.
                os.kill(self.pid, signal.SIGTERM)
                async with asyncio.timeout(limit_s):
                    await self._ended_or(hurry)
        except TimeoutError:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills the whole group. May be called again."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(COLLECT_S)

    async def _ended_or(self, hurry: asyncio.Event) -> None:
        while True:
            if self.exit_status is not None or hurry.is_set():
                return
            await asyncio.sleep(POLL_S)

    def _last_lines(self) -> list[str]:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]


class ProcessReaper:
    """Starts process groups that the reaper process ends when this process ends, even by
    SIGKILL."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    @contextlib.contextmanager
    def start(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> Iterator[ProcessGroup]:
        """Runs a command in a new process group. Leaving the context kills the rest of the
        group."""
        with log.open("wb") as output:
            child = subprocess.Popen(
                [*REAPER_COMMAND, "run", str(self._pipe), *command],
                pass_fds=(self._pipe,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                # With a new session, Ctrl-C in a terminal reaches only moegate, which ends the
                # others in order.
                start_new_session=True,
            )
        process = ProcessGroup(child, log)
        try:
            yield process
        finally:
            process.kill()
            # Another process may get this id now. The reaper may have ended already.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, b"forget %d\n" % process.pid)


@contextlib.contextmanager
def process_reaper() -> Iterator[ProcessReaper]:
    """Runs the reaper, a separate process that notices the end of this one."""
    read_end, pipe = os.pipe()
    try:
        process = subprocess.Popen(REAPER_COMMAND, stdin=read_end, start_new_session=True)
    except OSError:
        os.close(pipe)
        raise
    finally:
        os.close(read_end)
    try:
        yield ProcessReaper(pipe)
    finally:
        os.close(pipe)
        process.wait()
