"""A process group that ends with moegate: in order, by an exception, or when moegate is killed.

vLLM's workers outlive an API server that died, so every end is one of the whole group. The leader
is collected only after that: until then its process id, which is the group's, stays its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from moegate.up.process_reaper import GUARDIAN

POLL_S = 0.1
TAIL_LINES = 40
TAIL_BYTES = 64 * 1024
COLLECT_S = 10.0
"""How long a killed process may take to go: freeing the memory of a GPU is not instant."""


class GuardedProcess:
    """One process group, its output in a log file. Made by `Guardian.start`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Process id of the leader, which is the id of its group and session too."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while the leader runs; negative: ended by that signal."""
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
        """What it said last, without runs of blanks."""
        words = (line.split() for line in reversed(self._last_lines()))
        return next((" ".join(some) for some in words if some), "")

    async def wait(self) -> int:
        """Waits until the leader ends; returns its exit status."""
        while True:
            if (status := self.exit_status) is not None:
                return status
            await asyncio.sleep(POLL_S)

    async def stop(self, limit_s: float, hurry: asyncio.Event) -> None:
        """SIGTERM to the leader, which ends its workers; what is left is killed: after `limit_s`,
        once `hurry` is set, or when this is cancelled."""
        try:
            if self.exit_status is None:
                # Not to the group: workers that end first would cut streams that may yet finish.
                os.kill(self.pid, signal.SIGTERM)
                async with asyncio.timeout(limit_s):
                    await self._ended_or(hurry)
        except TimeoutError:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends the whole group at once. May be called again."""
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


class Guardian:
    """Starts process groups, and ends them when this process is gone, even by SIGKILL."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    @contextlib.contextmanager
    def start(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> Iterator[GuardedProcess]:
        """Runs a command in a group of its own; leaving the context kills what is left of it."""
        with log.open("wb") as output:
            child = subprocess.Popen(
                [*GUARDIAN, "run", str(self._pipe), *command],
                pass_fds=(self._pipe,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                # A session of its own: Ctrl-C in a terminal reaches moegate alone, which ends the
                # others in order.
                start_new_session=True,
            )
        process = GuardedProcess(child, log)
        try:
            yield process
        finally:
            process.kill()
            # Its number may now become another process's. A guardian that is gone does no harm.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, b"forget %d\n" % process.pid)


@contextlib.contextmanager
def guardian_process() -> Iterator[Guardian]:
    """Runs the guardian: a process of its own that notices when this one is gone."""
    read_end, pipe = os.pipe()
    try:
        process = subprocess.Popen(GUARDIAN, stdin=read_end, start_new_session=True)
    except OSError:
        os.close(pipe)
        raise
    finally:
        os.close(read_end)
    try:
        yield Guardian(pipe)
    finally:
        os.close(pipe)
        process.wait()
