"""The meter in a running gateway: its clock, its ticks, its state over restarts, changing prices.

One for the process: it goes on over reloads. Its clock is Unix time that is read once, at the
start, and then moves with the loop's: no step of the wall clock reaches an account.
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
"""Between two ticks, and so the most that a crash leaves unseen before its checkpoint."""


class Metering:
    """Owns the meter. `run` must be running for windows and the state file to advance."""

    def __init__(
        self,
        clock: Callable[[], float],
        unix_ns: Callable[[], int],
        state: Path | None = None,
    ) -> None:
        """`clock`: the loop's seconds; `unix_ns`: read once; `state`: file of the checkpoint."""
        self._clock = clock
        self._base_s = clock()
        self._base_ns = unix_ns()
        self._state = state
        self._reprice: Callable[[], float] = lambda: math.inf
        self._next_change_s = math.inf
        self._exists: Callable[[str], bool] = lambda _: True
        self._fitted: Callable[[str], StepModel] | None = None
        self._failed = False
        self.meter = Meter(self._read())

    def _read(self) -> MeterCheckpoint | None:
        if self._state is None:
            return None
        try:
            return read_checkpoint(self._state)
        except UnreadableCheckpoint as error:
            log.error("the meter begins anew: %s", error)
            return None

    def ns(self, loop_s: float) -> int:
        """Nanoseconds of the meter's clock at a time of the loop's."""
        return self._base_ns + int((loop_s - self._base_s) * SECOND_NS)

    @property
    def now_ns(self) -> int:
        """Now."""
        return self.ns(self._clock())

    @property
    def loop_s(self) -> float:
        """Now, as the loop and the scheduler count."""
        return self._clock()

    @property
    def unix_s(self) -> float:
        """Now, Unix seconds: what dated prices go by."""
        return self.now_ns / SECOND_NS

    def group(self, name: str) -> GroupMeter | None:
        """The meter of a group."""
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
        """Takes the groups of the configuration in force.

        `exists`: whether a group's place is filled; `fitted`: its step model now; `on_change` is
        called at `next_change_s`, Unix seconds, puts the new prices into force and returns the time
        of the change after that.
        """
        self.meter.configure(groups, self.now_ns)
        self._exists, self._reprice, self._fitted = exists, on_change, fitted
        self._next_change_s = next_change_s
        self._look_for_places()

    def report(self, group: str, report: EngineReport, loop_s: float) -> None:
        """Takes an engine's report."""
        meter = self.meter.group(group)
        if meter is None:
            return
        meter.report(report, self.ns(report.at_s), self.ns(loop_s))

    def serving(self, group: str, serving: bool, loop_s: float) -> None:
        """A group came into service or left it."""
        meter = self.meter.group(group)
        if meter is not None:
            meter.set_serving(serving, self.ns(loop_s))
            meter.set_present(self._exists(group), self.ns(loop_s))

    def take_fits(self) -> None:
        """Shares by what the scheduler has learnt of each group's step time since."""
        for name in self.meter.groups:
            meter = self.meter.group(name)
            if self._fitted is None or meter is None:
                continue
            try:
                model = self._fitted(name)
            except KeyError:
                continue  # no longer configured, and its last requests finish
            if model != meter.model:
                meter.set_model(model, self.now_ns)

    def _look_for_places(self) -> None:
        now_ns = self.now_ns
        for name in self.meter.groups:
            meter = self.meter.group(name)
            if meter is not None:
                meter.set_present(self._exists(name), now_ns)

    async def run(self) -> None:
        """Ticks until cancelled; the last checkpoint is written then."""
        try:
            while True:
                await asyncio.sleep(min(TICK_S, max(0.0, self._next_change_s - self.unix_s)))
                if self.unix_s >= self._next_change_s:
                    self._next_change_s = self._reprice()
                self._look_for_places()
                self.take_fits()
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
