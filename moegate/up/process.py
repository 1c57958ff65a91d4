"""Commands that end with moegate: at a regular end, at an exception, or when it is killed.

vLLM's workers survive the end of its API server. `process_keeper.py` runs between moegate and the
command and ends all that descends from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from moegate.up.log import failure, last_line
from moegate.up.process_keeper import KEEPER_COMMAND

POLL_S = 0.1
COLLECT_S = 10.0
"""Time that a killed process may take to end: the memory of a GPU is not freed at once."""


class ProcessTree:
    """A command and its descendants, with their output in a log file. Made by `running`."""

    def __init__(self, keeper: subprocess.Popen[bytes], pid: int, log: Path) -> None:
        self.pid = pid
        """Process id of the command, which is also the id of its session."""
        self.log = log
        self._keeper = keeper

    @property
    def exit_status(self) -> int | None:
        """Exit status of the command. None: something runs; negative: the signal that ended it."""
        return self._keeper.poll()

    def failure(self) -> str:
        """The first error and the last lines of its log."""
        return failure(self.log)

    @property
    def last_line(self) -> str:
        """The last line of the log that is not blank, with single spaces."""
        return last_line(self.log)

    async def wait(self) -> int:
        """Waits until the command has ended and nothing is left; returns its exit status."""
        while True:
            if (status := self.exit_status) is not None:
                return status
            await asyncio.sleep(POLL_S)

    async def stop(self, limit_s: float, hurry: asyncio.Event) -> None:
        """Sends SIGTERM to the command, which ends its workers. Kills what is left after
        `limit_s`, when `hurry` is set, or when this coroutine is cancelled."""
        try:
            # Not to the workers: their end would cut off streams that could finish.
            self._tell(b"t")
            async with asyncio.timeout(limit_s):
                await self._ended_or(hurry)
        except TimeoutError:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills everything. May be called again."""
        self._tell(b"k")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(COLLECT_S)

    async def _ended_or(self, hurry: asyncio.Event) -> None:
        while True:
            if self.exit_status is not None or hurry.is_set():
                return
            await asyncio.sleep(POLL_S)

    def _tell(self, word: bytes) -> None:
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the keeper has ended
            self._keeper.stdin.write(word)


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Iterator[ProcessTree]:
    """Runs a command in a new session. Leaving the context kills what is left of it.

    Raises OSError if it cannot be started.
    """
    read_end, told = os.pipe()
    with open(read_end, "rb") as pid_file:
        try:
            with log.open("wb") as output:
                keeper = subprocess.Popen(
                    [*KEEPER_COMMAND, str(told), *command],
                    bufsize=0,
                    pass_fds=(told,),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    # With a new session, Ctrl-C in a terminal reaches only moegate, which ends
                    # the others in order.
                    start_new_session=True,
                )
        finally:
            os.close(told)
        assert keeper.stdin is not None
        pid = pid_file.readline()
        if not pid:
            keeper.kill()
            keeper.wait()
            keeper.stdin.close()
            raise OSError(f"{command[0]} did not start\n{failure(log)}")
        tree = ProcessTree(keeper, int(pid), log)
        try:
            yield tree
        finally:
            tree.kill()
            keeper.stdin.close()
