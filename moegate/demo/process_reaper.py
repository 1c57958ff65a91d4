"""Ends the processes that a command has started when the command itself has ended, even by SIGKILL.

A script that `demo` runs in two ways, connected by a pipe:

    process_reaper.py                    reads `watch PID` and `forget PID` from standard input; at
                                         its end, it ends the process groups that it still watches
    process_reaper.py run FD COMMAND...  writes `watch PID` with its own id to FD, then executes
                                         COMMAND in its own process

A process registers itself before COMMAND starts, so that no process can be missed. The script
imports nothing of moegate, in order to start quickly.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

REAPER_COMMAND = (sys.executable, "-I", "-S", __file__)
"""The command that runs the reaper."""
GRACE_S = 3.0
"""Time between SIGTERM and SIGKILL."""


def watch() -> None:
    """Reads commands until the input ends, then ends the groups that are still watched."""
    groups: set[int] = set()
    for line in sys.stdin:
        word, _, number = line.partition(" ")
        if word == "watch":
            groups.add(int(number))
        else:
            groups.discard(int(number))
    for wanted, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 0.0)):
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, wanted)
        if groups:
            time.sleep(wait_s)


def execute(file: int, command: list[str]) -> None:
    """Registers this process with the reaper, then executes the command in it."""
    os.write(file, b"watch %d\n" % os.getpid())
    os.close(file)
    os.execv(command[0], command)


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        execute(int(sys.argv[2]), sys.argv[3:])
    watch()
