"""The scheduler's process of a gateway with several fronts.

The supervisor starts it, tells it on its standard input what to run, and keeps that open. The
process ends when its standard input ends. Until it is told, it is a spare that has loaded its code,
so that the place of a scheduler that was killed is taken at once. SIGTERM: the gateway drains.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from gateway.config.load.file import load
from gateway.config.problems import ConfigError
from gateway.fronts.messages import SchedulerAnswer, SchedulerSetting
from gateway.fronts.orphans import until_orphaned
from gateway.fronts.scheduler_side import SchedulerSide, kept_config, running_scheduler_side
from gateway.runtime.memory import return_large_blocks
from gateway.runtime.reload import FILE_WATCH, SIGNAL, ReloadRequests, reload_on
from gateway.runtime.watched_files import watch_files
from gateway.telemetry.logs import to_stderr

log = logging.getLogger(__name__)


async def _run(setting: SchedulerSetting) -> None:
    """Runs the scheduler until the supervisor closes the input. Raises ConfigError or OSError."""
    path, sockets = Path(setting.path), Path(setting.sockets)
    config = kept_config(sockets) if setting.fronts_before else load(path)
    loop = asyncio.get_running_loop()
    drains, reloads = asyncio.Event(), ReloadRequests()
    loop.add_signal_handler(signal.SIGTERM, drains.set)
    loop.add_signal_handler(signal.SIGHUP, reloads.ask, SIGNAL)
    orphaned = asyncio.create_task(until_orphaned())
    with to_stderr(config.telemetry.log_format, setting.log_level, process="scheduler"):
        async with running_scheduler_side(
            config,
            path.parent,
            sockets,
            addresses=setting.addresses,
            path=path,
            log_level=setting.log_level,
            fronts_before=setting.fronts_before,
        ) as side:
            gc.collect()
            gc.freeze()
            _answer(
                SchedulerAnswer(
                    health_address=side.health_address, metrics_address=side.metrics_address
                )
            )
            watching = watch_files(
                path, lambda: side.active.config, lambda: reloads.ask(FILE_WATCH)
            )
            tasks = (
                asyncio.create_task(watching),
                asyncio.create_task(reload_on(reloads, side)),
                asyncio.create_task(_drain_on(drains, side)),
            )
            await orphaned
            for task in tasks:
                task.cancel()


async def _drain_on(drains: asyncio.Event, side: SchedulerSide) -> None:
    await drains.wait()
    side.health.begin_drain()
    side.lane.begin_drain()


def _answer(answer: SchedulerAnswer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    """Waits for its setting, a line of JSON, and runs the scheduler."""
    # Control-C reaches all processes of a terminal: the supervisor drains the gateway.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return_large_blocks()
    # Unbuffered, so that the line alone is read.
    line = b""
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as told:
        while not line.endswith(b"\n"):
            if not (piece := told.read(1)):
                return 0  # the supervisor needs no spare any more
            line += piece
    setting = msgspec.json.decode(line, type=SchedulerSetting)

    async def run() -> None:
        await _run(setting)

    try:
        uvloop.run(run())
    except (ConfigError, OSError) as error:
        _answer(SchedulerAnswer(error=str(error) or type(error).__name__))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
