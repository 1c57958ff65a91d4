"""Supervises a gateway of several processes: the scheduler's, and those of the fronts.

It holds the ports, starts the processes, and starts those again that end. A front that ends loses
its streams. A scheduler that ends loses nothing: the fronts go on, and join the next one. All of
them end with the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config.gateway import GatewayConfig
from gateway.fronts.listening import shared_port
from gateway.fronts.messages import SchedulerSetting
from gateway.fronts.processes import FrontProcesses, front_command
from gateway.fronts.scheduler_keeper import SchedulerKeeper
from gateway.runtime.startup import announce

log = logging.getLogger(__name__)

START_S = 120.0
"""Longest time for all fronts to start."""


@dataclass(slots=True, kw_only=True)
class RunningFronts:
    """A gateway of several processes that accepts calls. Addresses are host:port."""

    address: str
    http_address: str | None
    console_address: str | None
    config: GatewayConfig
    scheduler: SchedulerKeeper
    fronts: FrontProcesses

    def reload(self) -> None:
        """Has the configuration file read again, for all processes."""
        self.scheduler.signal(signal.SIGHUP)

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Stops gracefully. Setting `hurry` skips the remaining waits."""
        server = self.config.server
        self.scheduler.signal(signal.SIGTERM)
        await self.fronts.stop(hurry, server.drain_delay_s + server.drain_s)
        await self.scheduler.stop()


@contextlib.asynccontextmanager
async def running_fronts(
    config: GatewayConfig, path: Path, count: int, *, log_level: str = "INFO"
) -> AsyncIterator[RunningFronts]:
    """Runs a gateway of a scheduler and `count` fronts. Leaving the context drains and stops it.

    `config`: as read from the file `path`. `log_level`: of all processes. Raises OSError.
    """
    with contextlib.ExitStack() as ports:
        grpc_port = shared_port(config.server.listen, "server.listen")
        addresses = {"listen": ports.enter_context(grpc_port)}
        for name in ("http_listen", "console_listen"):
            listen = getattr(config.server, name)
            if listen is not None:
                addresses[name] = ports.enter_context(shared_port(listen, f"server.{name}"))
        folder = Path(ports.enter_context(tempfile.TemporaryDirectory(prefix="moegate-")))
        scheduler = SchedulerKeeper(_setting(path, folder, addresses, log_level), count)
        fronts = FrontProcesses(count, front_command(folder / "link"))
        async with (
            kept_running(scheduler.run(), scheduler.ready.wait(), scheduler.kill),
            kept_running(fronts.run(), fronts.until_ready(), fronts.kill),
        ):
            gateway = RunningFronts(
                address=addresses["listen"],
                http_address=addresses.get("http_listen"),
                console_address=addresses.get("console_listen"),
                config=config,
                scheduler=scheduler,
                fronts=fronts,
            )
            try:
                yield gateway
            finally:
                await gateway.drain()


@contextlib.asynccontextmanager
async def kept_running(
    keep: Coroutine[Any, Any, None], ready: Coroutine[Any, Any, Any], kill: Callable[[], None]
) -> AsyncIterator[None]:
    """Runs `keep` while the context is open; begins when `ready` returns, and ends with `kill`.
    Raises OSError if `keep` ends before."""
    keeping, starting = asyncio.ensure_future(keep), asyncio.ensure_future(ready)
    try:
        await asyncio.wait(
            {keeping, starting}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED
        )
        if keeping.done():
            raise _first_fault(keeping.exception())
        if not starting.done():
            raise OSError(f"the processes do not accept calls after {START_S:g} s")
        yield
    finally:
        starting.cancel()
        kill()
        await asyncio.gather(starting, keeping, return_exceptions=True)


def _setting(
    path: Path, folder: Path, addresses: dict[str, str], log_level: str
) -> SchedulerSetting:
    return SchedulerSetting(
        path=str(path.absolute()),
        sockets=str(folder),
        addresses=addresses,
        log_level=log_level,
    )


def _first_fault(error: BaseException | None) -> OSError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, OSError) else OSError(f"the processes cannot run: {error}")


async def serve_fronts(config: GatewayConfig, path: Path, log_level: str, count: int) -> None:
    """Serves with `count` fronts until SIGTERM or SIGINT. Raises OSError if it cannot start."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    async with running_fronts(config, path, count, log_level=log_level) as gateway:
        loop.add_signal_handler(signal.SIGHUP, gateway.reload)
        announce(gateway.address, http=gateway.http_address, console=gateway.console_address)
        await stop.wait()
        log.info(
            "draining: new calls are taken for %g s more, streams have %g s; a second signal ends"
            " the waiting",
            config.server.drain_delay_s,
            config.server.drain_s,
        )
        await gateway.drain(hurry)
        log.info("stopped")
