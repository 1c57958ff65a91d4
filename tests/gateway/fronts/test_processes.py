"""Processes of fronts are started, started again, and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

import pytest

from gateway.fronts import processes as module
from gateway.fronts.processes import FrontProcesses
from tests.serving import until

SLEEPS = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def command(text: str) -> module.Command:
    def line(number: int) -> Sequence[str]:
        return sys.executable, "-c", text

    return line


async def test_one_that_dies_after_it_was_ready_is_started_again() -> None:
    made = FrontProcesses(2, command(SLEEPS))
    running = asyncio.create_task(made.run())
    await until(lambda: made.pid(1) is not None and made.pid(2) is not None)
    made.notify_ready(1)
    made.notify_ready(2)
    await made.until_ready()
    first, second = made.pid(1), made.pid(2)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: made.pid(1) not in (None, first))
    assert made.pid(2) == second
    await made.stop(None, 5.0)
    await running
    assert made.pid(1) is made.pid(2) is None


async def test_none_starts_once_all_shall_end() -> None:
    made = FrontProcesses(1, command(SLEEPS))
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the process is being started
    await made.stop(None, 5.0)
    await running
    assert made.pid(1) is None


async def test_one_that_was_never_ready_ends_all() -> None:
    ends = "import sys, time; time.sleep(600 if sys.argv[1] == '2' else 0); raise SystemExit(7)"
    made = FrontProcesses(2, lambda number: (sys.executable, "-c", ends, str(number)))
    with pytest.raises(ExceptionGroup) as ended:
        await made.run()
    assert made.pid(2) is None, "it has ended the others"
    assert "front 1 ended with status 7 before it could serve" in str(ended.value.exceptions[0])


async def test_one_that_does_not_drain_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KILL_S", 0.1)
    made = FrontProcesses(1, command(DEAF))
    running = asyncio.create_task(made.run())
    await until(lambda: made.pid(1) is not None)
    await asyncio.sleep(0.5)  # until it is deaf
    await made.stop(None, 0.1)
    await running


async def test_hurry_skips_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KILL_S", 0.1)
    made = FrontProcesses(1, command(DEAF))
    running = asyncio.create_task(made.run())
    await until(lambda: made.pid(1) is not None)
    hurry = asyncio.Event()
    hurry.set()
    await made.stop(hurry, 3600.0)
    await running
