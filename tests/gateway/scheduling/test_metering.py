"""The meter's clock, its state over restarts, and the moment of a price change."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from gateway.scheduling.metering import Metering
from scheduler.metering.meter import MeteredGroup
from scheduler.metering.totals import SECOND_NS
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from tests.gateway.scheduling.scheduling_made import UNIX_NS, Clock
from tests.scheduler.meters_made import PLAN

GROUP = MeteredGroup(name="own/a", pool="own", model=QWEN3_30B_H100, plan=PLAN, max_running=8)
SLOWER = QWEN3_30B_H100.scaled(base=2.0)


def metering(
    clock: Clock, state: Path | None = None, model: StepModel = QWEN3_30B_H100
) -> Metering:
    made = Metering(clock, lambda: UNIX_NS, state)

    def fitted(name: str) -> StepModel:
        return {"own/a": model}[name]

    made.configure(
        [GROUP],
        exists=lambda _: True,
        fitted=fitted,
        next_change_s=math.inf,
        on_change=lambda: math.inf,
    )
    return made


def test_the_clock_is_read_once_and_moves_with_the_loop() -> None:
    clock = Clock()
    times = iter([UNIX_NS])
    made = Metering(clock, lambda: next(times))
    assert made.now_ns == UNIX_NS
    clock.now_s += 1.5
    assert made.now_ns == UNIX_NS + 3 * SECOND_NS // 2
    assert made.unix_s == pytest.approx(UNIX_NS / SECOND_NS + 1.5)
    assert made.loop_s == clock.now_s


def test_step_models_follow_the_scheduler() -> None:
    made = metering(Clock(), model=SLOWER)
    group = made.group("own/a")
    assert group is not None
    assert group.model == QWEN3_30B_H100
    made.update_step_models()
    assert group.model == SLOWER


def test_a_group_that_is_not_configured_is_no_fault() -> None:
    made = metering(Clock())
    made.serving("own/z", True, made.loop_s)
    assert made.group("own/z") is None


async def ran(made: Metering, seconds: float = 0.05) -> None:
    task = asyncio.create_task(made.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_price_change_is_applied_when_it_is_due() -> None:
    clock = Clock()
    made = metering(clock)
    calls: list[float] = []

    def change() -> float:
        calls.append(made.unix_s)
        return math.inf

    made.configure(
        [GROUP],
        exists=lambda _: True,
        fitted=lambda _: QWEN3_30B_H100,
        next_change_s=made.unix_s + 1.0,
        on_change=change,
    )
    await ran(made)
    assert calls == []
    clock.now_s += 1.0
    await ran(made)
    assert len(calls) == 1


async def test_what_was_metered_survives_a_restart(tmp_path: Path) -> None:
    clock, state = Clock(), tmp_path / "meter.json"
    first = metering(clock, state)
    first.serving("own/a", True, clock())
    clock.now_s += 3600.0
    group = first.group("own/a")
    assert group is not None
    group.advance(first.now_ns)
    await ran(first)
    again = metering(clock, state)
    restored = again.group("own/a")
    assert restored is not None
    assert restored.totals.paid_ns == group.totals.paid_ns > 0


def test_a_state_that_cannot_be_read_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "meter.json"
    state.write_text("nonsense")
    metering(Clock(), state)
    assert "the meter begins anew" in caplog.text
