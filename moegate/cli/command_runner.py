"""Runs the coroutine of a command and reports its failure in one message."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells count."""


class CommandFailed(Exception):
    """A command cannot do what was asked. The text says what happened or what to change."""


def run_command(work: Coroutine[None, None, None]) -> int:
    """Runs a command to its end. Returns the exit status; the failure is on standard error."""
    try:
        asyncio.run(work)
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return INTERRUPTED
    return 0
