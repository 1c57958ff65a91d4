"""The meter of a running gateway: clock, ticks, checkpoint file and price changes.

There is one meter per process, and it survives reloads. Its clock reads Unix time once at the start
and then follows the event loop's clock, so steps of the wall clock do not affect costs.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from pathlib import Path

from gateway.accounting.meter_checkpoint import (
    UnreadableCheckpoint,
    encode_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from scheduler.contract import EngineReport
from scheduler.metering.cost import GroupMeter
from scheduler.metering.meter import Meter, MeterCheckpoint, MeteredGroup
from scheduler.metering.totals import SECOND_NS
from scheduler.step_time.step_model import StepModel

log = logging.getLogger(__name__)

TICK_S = 5.0
"""Seconds between two ticks, and the most time that a crash loses from the checkpoint."""


class Metering:
    """Owns the meter. The task `run` advances its windows and writes the checkpoint file."""

    def __init__(
        self,
        clock: Callable[[], float],
        unix_ns: Callable[[], int],
        state: Path | None = None,
        checkpoint: MeterCheckpoint | None = None,
    ) -> None:
        """`clock`: the event loop's seconds. `unix_ns`: read once. `state`: checkpoint file; None:
        none. `checkpoint`: where the ledger's accounts end; it precedes the file's."""
        self._clock = clock
        self._base_s = clock()
        self._base_ns = unix_ns()
        self._state = state
        self._reprice: Callable[[], float] = lambda: math.inf
        self._next_change_s = math.inf
        self._exists: Callable[[str], bool] = lambda _: True
        self._fitted: Callable[[str], StepModel] | None = None
        self._failed = False
        self.meter = Meter(self._read() if checkpoint is None else checkpoint)

    def _read(self) -> MeterCheckpoint | None:
        if self._state is None:
            return None
        try:
            return read_checkpoint(self._state)
        except UnreadableCheckpoint as error:
            log.error("the meter begins anew: %s", error)
            return None

    def ns(self, loop_s: float) -> int:
        """Converts event loop seconds into nanoseconds of the meter's clock (Unix epoch)."""
        return self._base_ns + int((loop_s - self._base_s) * SECOND_NS)

    @property
    def now_ns(self) -> int:
        """Current time of the meter's clock, in nanoseconds."""
        return self.ns(self._clock())

    @property
    def loop_s(self) -> float:
        """Current time of the event loop and the scheduler, in seconds."""
        return self._clock()

    @property
    def unix_s(self) -> float:
        """Current Unix time in seconds, by which dated prices apply."""
        return self.now_ns / SECOND_NS

    def group(self, name: str) -> GroupMeter | None:
        """Returns the meter of a group; None: unknown group."""
        return self.meter.group(name)

    def configure(
        self,
        groups: list[MeteredGroup],
        *,
        exists: Callable[[str], bool],
        fitted: Callable[[str], StepModel],
        next_change_s: float,
        on_change: Callable[[], float],
    ) -> None:
        """Sets the metered groups of the configuration in force.

        `exists`: whether a group has a server. `fitted`: current step model of a group; raises
        KeyError if the group is not configured. `on_change` is called at `next_change_s`, Unix
        seconds. It applies the new prices and returns the time of the following change.
        """
        self.meter.configure(groups, self.now_ns)
        self._exists, self._reprice, self._fitted = exists, on_change, fitted
        self._next_change_s = next_change_s
        self._update_presence()

    def report(self, group: str, report: EngineReport, loop_s: float) -> None:
        """Records an engine report of a group."""
        meter = self.meter.group(group)
        if meter is None:
            return
        meter.report(report, self.ns(report.at_s), self.ns(loop_s))

    def serving(self, group: str, serving: bool, loop_s: float) -> None:
        """Records that a group came into service or left it."""
        meter = self.meter.group(group)
        if meter is not None:
            meter.set_serving(serving, self.ns(loop_s))
            meter.set_present(self._exists(group), self.ns(loop_s))

    def update_step_models(self) -> None:
        """Updates the meter with the scheduler's current step model of each group."""
        for name in self.meter.groups:
            meter = self.meter.group(name)
            if self._fitted is None or meter is None:
                continue
            try:
                model = self._fitted(name)
            except KeyError:
                continue  # removed by a reload while its last requests finish
            if model != meter.model:
                meter.set_model(model, self.now_ns)

    def _update_presence(self) -> None:
        now_ns = self.now_ns
        for name in self.meter.groups:
            meter = self.meter.group(name)
            if meter is not None:
                meter.set_present(self._exists(name), now_ns)

    async def run(self) -> None:
        """Ticks until cancelled, then writes the last checkpoint."""
        try:
            while True:
                await asyncio.sleep(min(TICK_S, max(0.0, self._next_change_s - self.unix_s)))
                if self.unix_s >= self._next_change_s:
                    self._next_change_s = self._reprice()
                self._update_presence()
                self.update_step_models()
                self.meter.tick(self.now_ns)
                await self._write()
        finally:
            if self._state is not None:
                self._write_now(encode_checkpoint(self.meter.checkpoint(self.now_ns)))

    async def _write(self) -> None:
        if self._state is not None:
            data = encode_checkpoint(self.meter.checkpoint(self.now_ns))
            await asyncio.to_thread(self._write_now, data)

    def _write_now(self, data: bytes) -> None:
        assert self._state is not None
        try:
            write_checkpoint(self._state, data)
        except OSError as error:
            if not self._failed:
                log.error("the meter's state cannot be kept in %s: %s", self._state, error)
            self._failed = True
        else:
            self._failed = False
