"""Placements, events and figures for tests of reloads."""

from __future__ import annotations

from typing import Any

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    EngineReport,
    Evict,
    Fault,
    PlacementKind,
    ServingChanged,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.engine_steps import EngineCounts
from scheduler.placement_state import Placement, PlacementState
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request

EU = frozenset({"eu"})
LIMITS = SchedulerLimits(queue=QueueLimits(requests=8, size_bytes=10_000), attempts=3)


def local(name: str, model: str = "moe", *, slots: int = 1) -> Placement:
    return Placement(
        name=name,
        kind=PlacementKind.SELF_HOSTED,
        model=model,
        max_running=slots,
        kv_capacity_tokens=100_000,
        step_model=QWEN3_30B_H100,
    )


def remote(name: str = "far", model: str = "moe", *, slots: int = 4) -> Placement:
    return Placement(
        name=name, kind=PlacementKind.REMOTE, model=model, max_running=slots, remote_class="eu"
    )


def scheduler(*placements: Placement, limits: SchedulerLimits = LIMITS) -> Scheduler:
    made = Scheduler(placements, limits)
    for placement in placements:
        serve(made, placement.name)
    return made


def serve(core: Scheduler, name: str, now: float = 0.0) -> tuple[Action, ...]:
    return core.handle(ServingChanged(placement=name, serving=True, reason=""), now)


def end(
    core: Scheduler,
    name: str,
    outcome: AttemptOutcome = AttemptOutcome.OK,
    *,
    now: float = 1.0,
    attempt: int = 1,
    fault: Fault = Fault.NONE,
    tokens: int = 10,
) -> tuple[Action, ...]:
    event = AttemptEnded(
        request_id=name, attempt=attempt, outcome=outcome, fault=fault, output_tokens=tokens
    )
    return core.handle(event, now)


def places(actions: tuple[Action, ...]) -> list[tuple[str, str]]:
    """Who was started where, or why not."""
    return [
        (a.request_id, a.placement if isinstance(a, Start) else a.reason)
        for a in actions
        if not isinstance(a, Evict)
    ]


def state_of(core: Scheduler, name: str) -> PlacementState:
    [state] = [state for state in core.placements if state.facts.name == name]
    return state


def report(name: str, at_s: float, *, step_s: float = 0.0, gaps: int = 0) -> EngineReport:
    return EngineReport(
        placement=name,
        at_s=at_s,
        running=4,
        waiting=0,
        kv_usage=0.01,
        prompt_tokens_total=0,
        generation_tokens_total=gaps,
        kv_capacity_tokens=100_000,
        counts=EngineCounts(
            gaps=gaps,
            gaps_s=gaps * step_s,
            steps=gaps // 4,
            first_tokens=0,
            cached_prompt_tokens=0,
        ),
    )


def teach(core: Scheduler, name: str, *, step_s: float = 0.02, start_s: float = 0.0) -> float:
    """Reports of an engine that takes `step_s` for a token; when the last one came."""
    now = start_s
    for second in range(40):
        now = start_s + second
        core.handle(report(name, now, step_s=step_s, gaps=second * 200), now)
    return now


def start(core: Scheduler, name: str, now: float = 0.0, **facts: Any) -> str:
    """Submits a request that starts at once; where."""
    made = request(name, arrival_s=now, **facts)
    [action] = core.submit(made, now)
    assert isinstance(action, Start), action
    return action.placement


def idle(core: Scheduler) -> None:
    """Nothing of any request is left."""
    assert repr(core) == "<Scheduler: 0 queued, 0 running>"
    assert not core._tracked
    assert not core._leaving
    assert all(not state.residents for state in core.placements)
    for gate in core._admission._admission.values():
        assert not gate.running
    for model_state in core._model_states.values():
        assert not model_state.batch
        for group in model_state.fleet.groups:
            assert not len(group.streams)
            assert not any(periods._awaited for periods in group.periods.values())
