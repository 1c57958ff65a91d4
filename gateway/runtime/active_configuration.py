"""The configuration in force: swapped whole on reload, while the old one finishes what it runs.

A swap is one assignment: a request is served by the old configuration or by the new one, never by
parts of both. What the old one still runs appears to the new one as external load.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.accounting.apply_prices import pay
from gateway.accounting.metering import Metering
from gateway.auth.authenticator import Authenticator
from gateway.config.gateway import GatewayConfig
from gateway.fleet.drain_filter import DrainFilter
from gateway.runtime.assembly import Runtime, build
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.contract import ServingChanged
from scheduler.decisions import Decision, Decisions
from scheduler.metering.settlement import Sink
from scheduler.snapshot import SchedulerSnapshot

log = logging.getLogger(__name__)

MAX_RETIRED = 8
"""Old configurations that may still finish requests: a reload beyond is refused."""


class ReloadRefused(Exception):
    """The old configuration stays in force; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A configuration with its tasks."""

    runtime: Runtime
    gate: DrainFilter
    authenticator: Authenticator
    tasks: tuple[asyncio.Task[None], ...]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a task of the gateway failed", exc_info=result)
        await self.runtime.close()


class ActiveConfiguration:
    """Holds what serves. `close` ends all of it."""

    def __init__(
        self,
        config: GatewayConfig,
        base_dir: Path,
        *,
        upstream: aiohttp.ClientSession,
        clock: Callable[[], float],
        load: LoopLoad,
        on_change: Callable[[], Awaitable[None]],
        metering: Metering,
        sinks: tuple[Sink, ...] = (),
    ) -> None:
        """Raises ConfigError."""
        self._upstream = upstream
        self._clock = clock
        self._load = load
        self._on_change = on_change
        self._metering = metering
        self._sinks = sinks
        self._retired: set[asyncio.Task[None]] = set()
        self._drained: set[str] = set()
        self._before: Decisions | None = None
        """Of the configuration before: a reload must not forget why a request ran where it did."""
        self._current = self._start(config, base_dir)

    @property
    def runtime(self) -> Runtime:
        """What serves new requests."""
        return self._current.runtime

    def snapshot(self) -> SchedulerSnapshot:
        """How the fleet stands now."""
        return self.runtime.scheduler.snapshot(self._clock())

    def decision(self, request_id: str) -> Decision | None:
        """The newest decision for a request of the last ones, by its scheduler id."""
        found = self.runtime.scheduler.decisions.get(request_id)
        if found is None and self._before is not None:
            found = self._before.get(request_id)
        return found

    @property
    def metering(self) -> Metering:
        """The meter, the same over reloads."""
        return self._metering

    @property
    def authenticator(self) -> Authenticator:
        """Who may call."""
        return self._current.authenticator

    async def swap(self, config: GatewayConfig, base_dir: Path) -> None:
        """Puts a checked configuration into force. Raises ConfigError or ReloadRefused."""
        if len(self._retired) >= MAX_RETIRED:
            raise ReloadRefused(
                f"{MAX_RETIRED} older configurations still finish their requests: try again later"
            )
        new, old = self._start(config, base_dir), self._current
        new.runtime.fleet.adopt(old.runtime.fleet)
        for placement in _unchanged(old.runtime, new.runtime):
            # It has proved itself: no pause in its service, the prober looks again meanwhile.
            reason = "in service before the reload"
            new.runtime.fleet.assume_in_service(placement)
            new.runtime.dispatcher.handle(
                ServingChanged(placement=placement, serving=True, reason=reason)
            )
        self._before = old.runtime.scheduler.decisions
        self._current = new
        await self._on_change()
        retiring = asyncio.create_task(_retire(old), name="moegate-retiring")
        self._retired.add(retiring)
        retiring.add_done_callback(self._retired.discard)

    def members(self, name: str) -> tuple[str, ...]:
        """The placement of that name, or the pinned ranks of the replica; empty: there is none."""
        facts = [state.facts for state in self.runtime.scheduler.placements]
        return tuple(f.name for f in facts if name in (f.name, f.group or f.name))

    async def drain(self, name: str) -> None:
        """Sends no new request to this replica or remote; running ones finish."""
        self._drained.add(name)
        await self._regate(name)

    async def undrain(self, name: str) -> None:
        """Takes it back: what its probes say holds again."""
        self._drained.discard(name)
        await self._regate(name)

    async def _regate(self, name: str) -> None:
        current = self._current
        for placement in self.members(name):
            current.runtime.dispatcher.handle(current.gate.last_probed(placement))
        await self._on_change()

    async def close(self) -> None:
        """Ends every task; requests should have ended."""
        retiring = tuple(self._retired)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await self._current.stop()

    def _start(self, config: GatewayConfig, base_dir: Path) -> _Running:
        gate = DrainFilter(self._drained)
        runtime = build(
            config,
            base_dir,
            self._upstream,
            self._clock,
            self._load,
            self._on_change,
            self._metering,
            self._sinks,
            gate,
        )
        pay(self._metering, runtime)
        return _Running(
            runtime=runtime,
            gate=gate,
            authenticator=Authenticator(config, base_dir),
            tasks=(
                asyncio.create_task(runtime.dispatcher.run(), name="moegate-dispatcher"),
                asyncio.create_task(runtime.fleet.run(), name="moegate-fleet"),
            ),
        )


async def _retire(old: _Running) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await old.runtime.dispatcher.until_idle()
    await old.stop()


def _unchanged(old: Runtime, new: Runtime) -> list[str]:
    """Placements that serve now and whose address and model stay what they are."""
    before = {
        state.facts.name: old.targets[state.facts.name]
        for state in old.scheduler.placements
        if state.serving
    }
    return [name for name, target in new.targets.items() if before.get(name) == target]
