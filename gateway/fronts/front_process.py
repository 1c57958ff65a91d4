"""A front's process: doors and pipeline, joined to the scheduler's process.

The supervisor starts it, and it ends with the supervisor. When the scheduler's process is lost it
goes on, and joins the next one. SIGTERM drains it; a second one skips the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import msgspec
import uvloop

from gateway.auth.run_time import NO_RUN_TIME_ACCESS, AccessTable, newest
from gateway.config.gateway import GatewayConfig
from gateway.config.problems import ConfigError
from gateway.delivery.watches import Watches
from gateway.doors.grpc.listening.forwarded_accounts import (
    CHANNEL_OPTIONS,
    accounts_target,
    add_forwarded_accounts,
)
from gateway.doors.grpc.listening.health import HealthService
from gateway.front import FrontSurroundings, RunningFront, running_front
from gateway.fronts.batch_link import RemoteBatches
from gateway.fronts.front_clients import FrontClients, away_limits
from gateway.fronts.messages import (
    ACCESS,
    APPLY,
    MEASURE,
    PREPARE,
    READY,
    FrontAddresses,
    FrontSetting,
    Measured,
)
from gateway.fronts.orphans import until_orphaned
from gateway.link.joining import FAILURES, Joining
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire.connection import connect
from gateway.runtime.active_configuration import ActiveConfiguration
from gateway.runtime.configuration import PreparedConfiguration, prepare
from gateway.runtime.memory import return_large_blocks
from gateway.telemetry.logs import dropped_lines, to_stderr
from gateway.telemetry.observer import Telemetry, telemetry
from gateway.telemetry.page_samples import page_samples
from gateway.upstream.http.connections import upstream_session
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.fleet_view import FleetView

log = logging.getLogger(__name__)

ENDED_STATUS = 3
"""Exit status after the end of the supervisor, or if the scheduler's process has dismissed it."""
LAST_LINES_S = 0.5
"""Time for the last log lines then."""


@dataclass(slots=True)
class _Parts:
    """What calls of the parent act on, once the front runs."""

    base_dir: Path
    active: ActiveConfiguration
    clients: FrontClients
    prepared: PreparedConfiguration
    front: RunningFront | None = None
    observing: Telemetry | None = None
    load: LoopLoad | None = None
    next: PreparedConfiguration | None = None
    """The configuration that was prepared last, until it is applied."""


class FrontProcess:
    """The front with this number. `run` returns when it has drained."""

    def __init__(self, socket: Path, number: int) -> None:
        """Must be made inside a running event loop."""
        self._socket = socket
        self._number = number
        self._clock = asyncio.get_running_loop().time
        self._parts: _Parts | None = None
        self._access = NO_RUN_TIME_ACCESS
        """What was told last of the keys made at run time."""
        self._health: HealthService | None = None
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._following: set[asyncio.Task[None]] = set()
        self.scheduler = RemoteScheduler(
            clock=self._clock,
            handlers={
                ACCESS: (AccessTable, self._use_access),
                PREPARE: (GatewayConfig, self._prepare),
                APPLY: (None, self._apply),
                MEASURE: (None, self._measure),
            },
            on_fleet=self._fleet_changed,
        )
        self._joining = Joining(self.scheduler, number, self._locate, connect, self._clock)

    async def run(self) -> None:
        """Serves until SIGTERM. Raises ConfigError, OSError or LinkLost if it cannot start."""
        loop = asyncio.get_running_loop()
        stop, hurry = self._stop, self._hurry
        loop.add_signal_handler(signal.SIGTERM, lambda: (hurry if stop.is_set() else stop).set())
        orphaned = asyncio.create_task(until_orphaned())
        encoded = await self._joining.join()
        setting = msgspec.msgpack.decode(encoded, type=FrontSetting)
        self._access = newest(setting.access, self._access)
        self.scheduler.limits = away_limits(setting.config)
        log_format = setting.config.telemetry.log_format
        with to_stderr(log_format, setting.log_level, process=f"front-{self._number}"):
            await self._serve(setting, orphaned)
        orphaned.cancel()

    async def _locate(self) -> Path:
        return self._socket

    async def _serve(self, setting: FrontSetting, orphaned: asyncio.Task[None]) -> None:
        config, base_dir = setting.config, Path(setting.base_dir)
        prepared = await asyncio.to_thread(prepare, config, base_dir)
        load = LoopLoad(self._clock, time.process_time, config.server.longest_hold_s)
        watches = Watches()
        health = self._health = HealthService(watches, config.server.blocked_write_s)
        target = accounts_target(Path(setting.accounts))
        async with (
            upstream_session() as upstream,
            telemetry(config.telemetry, self._clock) as observing,
            grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel,
        ):
            prepared = prepared.with_access(self._access)
            clients = FrontClients(prepared, self.scheduler, upstream, load)
            parts = self._parts = _Parts(base_dir, ActiveConfiguration(prepared), clients, prepared)
            parts.observing, parts.load = observing, load
            around = FrontSurroundings(
                port=self.scheduler,
                upstreams=clients.connections,
                load=load,
                observing=observing,
                watches=watches,
                health=health,
                add_accounts=lambda server: add_forwarded_accounts(
                    server, lambda: channel, watches, config.server.blocked_write_s
                ),
                batches=RemoteBatches(self.scheduler.present),
                shares_port=True,
            )
            async with running_front(parts.active, prepared, base_dir, around) as front:
                parts.front = front
                health.publish(self.scheduler.fleet.serves)
                gc.collect()
                gc.freeze()
                await self._tell_ready(front)
                joining = asyncio.create_task(self._joining.keep(self._joined_again))
                await self._until_the_end(front, orphaned)
                joining.cancel()
            await self.scheduler.leave()
            await clients.connections.close()

    async def _tell_ready(self, front: RunningFront) -> None:
        addresses = FrontAddresses(
            address=front.address,
            http_address=None if front.http is None else front.http.address,
        )
        assert self.scheduler.connection is not None
        await self.scheduler.connection.call(READY, addresses, None)
        print("ready", flush=True)  # for the supervisor

    async def _until_the_end(self, front: RunningFront, orphaned: asyncio.Task[None]) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        draining = asyncio.create_task(self._drain(front, stopping))
        dismissed = self.scheduler.dismissed
        ends: set[asyncio.Future[Any]] = {draining, orphaned, dismissed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            reason = dismissed.result() if dismissed.done() else "the supervisor has ended"
            log.error("this front ends: %s", reason)
            await asyncio.sleep(LAST_LINES_S)
            # What runs ends as when a process is killed.
            os._exit(ENDED_STATUS)
        await draining

    def _joined_again(self, encoded: bytes) -> None:
        """Another scheduler, or the same one, knows of this front again."""
        setting = msgspec.msgpack.decode(encoded, type=FrontSetting)
        task = asyncio.create_task(self._follow(setting))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _follow(self, setting: FrontSetting) -> None:
        """Uses the configuration in force, which may have changed meanwhile."""
        parts = self._parts
        assert parts is not None
        assert parts.front is not None
        problem = ""
        self._use_access(newest(setting.access, self._access))
        if setting.config != parts.prepared.config:
            problem = await self._prepare(setting.config)
            if not problem:
                self._apply(None)
        if problem:
            # It must not go on with an old configuration, whose keys may be revoked.
            log.error("the configuration in force cannot be used: %s", problem)
            if not self.scheduler.dismissed.done():
                self.scheduler.dismissed.set_result("it has an old configuration")
            return
        try:
            await self._tell_ready(parts.front)
        except FAILURES as error:
            log.warning("the scheduler was lost again: %s", error)

    async def _drain(self, front: RunningFront, stopping: asyncio.Task[bool]) -> None:
        await stopping
        await front.drain(self._hurry)

    # Calls of the parent.

    async def _prepare(self, config: GatewayConfig) -> str:
        parts = self._parts
        if parts is None:
            return "the front has not started"
        try:
            parts.next = await asyncio.to_thread(prepare, config, parts.base_dir)
        except (ConfigError, OSError) as error:
            return str(error)
        return ""

    def _apply(self, _: None) -> None:
        parts = self._parts
        assert parts is not None
        assert parts.front is not None
        assert parts.next is not None
        parts.prepared, parts.next = parts.next, None
        parts.front.apply(parts.prepared, parts.base_dir)
        parts.clients.apply(parts.active.prepared)

    def _use_access(self, access: AccessTable) -> None:
        self._access = access
        if self._parts is not None:
            self._parts.active.use_access(access)
            self._parts.clients.apply(self._parts.active.prepared)

    def _measure(self, _: None) -> Measured:
        parts = self._parts
        front = None if parts is None else parts.front
        if parts is None or front is None or parts.observing is None or parts.load is None:
            raise RuntimeError("the front has not started")
        instruments = parts.observing.instruments
        return Measured(
            page=page_samples(None if instruments is None else instruments.registry),
            active_requests=front.active_requests,
            busy_share=parts.load.share_now(),
            dropped_log_lines=dropped_lines(),
            lost_ends=self.scheduler.record.lost_ends,
        )

    # The fleet, as the scheduler tells it.

    def _fleet_changed(self, view: FleetView) -> None:
        if self._health is not None:
            self._health.publish(view.serves)
        if self._parts is not None:
            self._parts.clients.connect()


def main() -> int:
    """Runs the front: `python -m gateway.fronts.front_process SOCKET NUMBER`."""
    socket, number = Path(sys.argv[1]), int(sys.argv[2])
    # Control-C reaches all processes of a terminal: the supervisor drains the fronts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return_large_blocks()

    async def run() -> None:
        await FrontProcess(socket, number).run()

    try:
        uvloop.run(run())
    except (ConfigError, *FAILURES) as error:
        print(f"front {number}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
