"""The interface of a scheduler for a simulated fleet, and the engine reports that it receives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from scheduler.contract import Action, EngineReport, Event, Request, Tick
from scheduler.engine_steps import EngineCounts
from simulation.arrivals import Arrival
from simulation.engine.engine import Engine


class Decider(Protocol):
    """A scheduling policy; `scheduler.core.Scheduler` in production."""

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        """Submits a new request."""

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Reports an event."""

    def tick(self, now: float) -> Tick:
        """Reports that time has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTiming:
    """Delays of the decider's events and reports, seconds.

    `report_lag_s`: age of an engine report when it arrives; `tick_s`: between ticks while requests
    are open, beside the wake-ups that a tick asks for; `release_s`: how long an idle engine stays
    powered.
    """

    report_s: float = 1.0
    report_lag_s: float = 0.1
    progress_s: float = 0.25
    tick_s: float = 0.05
    release_s: float = 30.0


@dataclass(slots=True, eq=False)
class SimulatedPlacement:
    """An engine, or one data-parallel rank of it that requests are pinned to."""

    name: str
    engine: Engine
    rank: int | None = None


@dataclass(slots=True)
class ActiveRequest:
    """A request that has not ended; `told_tokens`: output tokens reported to the decider so far."""

    arrival: Arrival
    attempt: int = 0
    placement: SimulatedPlacement | None = None
    dispatched_s: float | None = None
    first_token_s: float | None = None
    told_tokens: int = 0
    cached_tokens: int = 0
    gpu_s: float = 0.0


def report_of(placement: SimulatedPlacement, now: float) -> EngineReport:
    """Report of the engine (or the pinned rank), with the figures of vLLM's /metrics."""
    engine, config = placement.engine, placement.engine.config
    ranks = engine.ranks if placement.rank is None else (engine.ranks[placement.rank],)
    counters = engine.counters if placement.rank is None else ranks[0].counters
    blocks = config.num_gpu_blocks * len(ranks)
    return EngineReport(
        placement=placement.name,
        at_s=now,
        running=sum(len(rank.running) for rank in ranks),
        waiting=sum(len(rank.waiting) for rank in ranks),
        kv_usage=sum(rank.pool.used_blocks for rank in ranks) / blocks,
        prompt_tokens_total=counters.prompt_tokens,
        generation_tokens_total=counters.generation_tokens,
        kv_capacity_tokens=blocks * config.block_size,
        context_tokens=config.max_model_len,
        counts=EngineCounts(
            ranks=len(ranks),
            gaps=counters.inter_token_s.count,
            gaps_s=counters.inter_token_s.total,
            first_tokens=counters.ttft_s.count,
            steps=counters.step_tokens.count,
            cached_prompt_tokens=counters.prompt_tokens_cached,
            preemptions=counters.preemptions,
        ),
    )
