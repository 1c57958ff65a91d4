"""Ends the processes that a command has started when the command itself is gone, even by SIGKILL.

A script of its own, run by `demo` and `up` in two ways, joined by a pipe:

    guardian.py                     reads `watch PID` and `forget PID` from standard input; at its
                                    end, it ends the process groups that it still watches
    guardian.py run FD COMMAND...   writes `watch PID` of itself to FD, then becomes COMMAND

A process thus makes itself known before it does anything, and the pipe stays open until it has:
there is no moment in which it could be forgotten. Imports nothing of moegate, to start at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

GUARDIAN = (sys.executable, "-I", "-S", __file__)
"""How it is run."""
GRACE_S = 3.0
"""Between SIGTERM and SIGKILL."""


def watch() -> None:
    """Watches until the input ends."""
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


def become(file: int, command: list[str]) -> None:
    """Announces this process, then is the command."""
    os.write(file, b"watch %d\n" % os.getpid())
    os.close(file)
    os.execv(command[0], command)


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        become(int(sys.argv[2]), sys.argv[3:])
    watch()
