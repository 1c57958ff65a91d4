"""Ends the demo's processes when the demo itself is gone, however it went: even by SIGKILL.

A script of its own, started by `processes.py`: it reads `watch PID` and `forget PID` from its
standard input, whose other end only the demo holds. At the end of the input it ends the process
groups that it still watches. It imports nothing of moegate, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

GRACE_S = 3.0
"""Between SIGTERM and SIGKILL."""


def main() -> None:
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


if __name__ == "__main__":
    main()
