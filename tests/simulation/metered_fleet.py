"""A simulated engine under a meter that sees only what the gateway would; and the truth of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from scheduler.contract import (
    Action,
    AttemptEnded,
    EngineReport,
    Event,
    PlacementKind,
    Progress,
    Request,
    Start,
    Tick,
)
from scheduler.metering.cost import GroupMeter
from scheduler.metering.runs import Run
from scheduler.metering.totals import HOUR_NS, SECOND_NS, RateSegment
from scheduler.step_time.own_load import OwnLoad
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from scheduler.step_time.step_windows import WindowMeter
from simulation.arrivals import Arrival, ExternalArrival, Outcome
from simulation.decider import FleetTiming, SimulatedPlacement
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import Physics
from simulation.engine.sequences import LengthRequest
from simulation.fleet import FleetSimulation
from tests.scheduler.requests_made import request

RATE = 2_500_000_000
"""Nano-USD per hour."""


@dataclass(slots=True)
class MeteredDecider:
    """Sends everything to one placement at once, and meters it as the gateway does."""

    meter: GroupMeter
    most_running: int
    queue: list[Request] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    metered: dict[str, int] = field(default_factory=dict)
    fit: StepFit | None = None
    """What the gateway learns of step times; None: the model in use stays."""
    _windows: WindowMeter = field(default_factory=WindowMeter)
    _own: OwnLoad = field(default_factory=OwnLoad)

    def _learn(self, report: EngineReport, now: float) -> None:
        assert self.fit is not None
        window = self._windows.take(report, self._own.at(sequences=self.meter.running))
        if window is not None:
            self.fit.observe(window)
            self.meter.set_model(self.fit.model, int(now * SECOND_NS))

    def submit(self, what: Request, now: float) -> list[Action]:
        self.queue.append(what)
        return self._start(now)

    def _start(self, now: float) -> list[Action]:
        started: list[Action] = []
        while self.queue and len(self.runs) < self.most_running:
            what = self.queue.pop(0)
            self.runs[what.request_id] = self.meter.start(
                int(now * SECOND_NS), prompt_tokens=what.prompt_tokens
            )
            started.append(
                Start(
                    request_id=what.request_id,
                    attempt=1,
                    placement="own/a",
                    kind=PlacementKind.SELF_HOSTED,
                    reason="",
                    predicted_ttft_s=None,
                    predicted_tpot_s=None,
                )
            )
        return started

    def handle(self, event: Event, now: float) -> list[Action]:
        now_ns = int(now * SECOND_NS)
        match event:
            case Progress():
                run = self.runs[event.request_id]
                new = event.output_tokens - run.output_tokens
                if not run.output_tokens:
                    self._own.first_token(
                        sequences=1,
                        prompt_tokens=run.prompt_tokens,
                        uncached_tokens=run.prompt_tokens,
                    )
                    new -= 1
                self._own.tokens(new, 0.0)
                self.meter.progress(self.runs[event.request_id], event.output_tokens, now_ns)
            case AttemptEnded():
                run = self.runs.pop(event.request_id)
                share = self.meter.end(
                    run,
                    now_ns,
                    uncached_tokens=run.prompt_tokens,
                    output_tokens=event.output_tokens or 0,
                )
                cost = share.uncached_input + share.cached_input + share.output
                self.metered[event.request_id] = cost
                return self._start(now)
            case EngineReport():
                if self.fit is not None:
                    self._learn(event, now)
                self.meter.report(event, int(event.at_s * SECOND_NS), now_ns)
            case _:
                pass
        return []

    def tick(self, now: float) -> Tick:
        return Tick(actions=(), next_wake_s=None)


@dataclass(frozen=True, slots=True)
class Compared:
    """Metered over true cost of every request that finished, and the whole."""

    ratios: np.ndarray
    external_metered: float
    external_true: float
    waited_in_engine: float
    """Share of requests that the engine queued."""
    preemptions: int

    def error(self, percentile: float) -> float:
        """Relative error of a request's cost, at a percentile of requests."""
        return float(np.percentile(np.abs(self.ratios - 1.0), percentile))


def lengths(rng: np.random.Generator, count: int) -> Iterator[tuple[int, int]]:
    """Prompt and output tokens like Azure's conversation trace: means 1155 and 211."""
    prompts = np.clip(rng.lognormal(6.7, 0.85, count), 16, 14_000).astype(int)
    outputs = np.clip(rng.lognormal(4.95, 0.9, count), 2, 1000).astype(int)
    yield from zip(prompts.tolist(), outputs.tolist(), strict=True)


def compare(
    *,
    seed: int,
    requests: int,
    per_s: float,
    external_share: float = 0.0,
    max_num_seqs: int = 256,
    most_running: int = 256,
    num_gpu_blocks: int = 6144,
    noise_sigma: float = 0.05,
    length_scale: float = 1.0,
    truth: StepModel = QWEN3_30B_H100,
    learns: bool = True,
) -> Compared:
    """Plays Poisson arrivals; a share of them is sent past the gateway.

    `truth`: the engine's step times, of which the meter knows the model of one H100 at first;
    `learns`: it takes what is fitted from the engine's reports, as the gateway's does.
    """
    rng = np.random.default_rng(seed)
    config = EngineConfig(
        max_num_seqs=max_num_seqs,
        num_gpu_blocks=num_gpu_blocks,
        max_model_len=16_384,
        noise_sigma=noise_sigma,
    )
    placement = SimulatedPlacement("own/a", Engine(config, Physics(truth), seed))
    times = np.cumsum(rng.exponential(1.0 / per_s, requests))
    others = rng.random(requests) < external_share
    own: list[Arrival] = []
    external: list[ExternalArrival] = []
    for i, (prompt, output) in enumerate(lengths(rng, requests)):
        prompt = max(1, int(prompt * length_scale))
        at_s = float(times[i])
        if others[i]:
            what = LengthRequest(request_id=f"x{i}", prompt_tokens=prompt, tokens=output)
            external.append(ExternalArrival(at_s=at_s, placement="own/a", request=what))
        else:
            asked = request(f"r{i}", arrival_s=at_s, prompt_tokens=prompt, max_output_tokens=1000)
            own.append(Arrival(request=asked, output_tokens=output))
    meter = GroupMeter(
        QWEN3_30B_H100,
        (RateSegment(start_ns=0, nano_usd_per_hour=RATE),),
        0,
        max_running=max_num_seqs,
    )
    meter.set_serving(True, 0)
    decider = MeteredDecider(meter, most_running, fit=StepFit(QWEN3_30B_H100) if learns else None)
    outcomes: list[Outcome] = []
    fleet = FleetSimulation(
        [placement],
        decider,
        own,
        outcomes.append,
        external=external,
        timing=FleetTiming(progress_s=0.05),
    )
    fleet.run()
    per_gpu_s = RATE * SECOND_NS / HOUR_NS
    ratios = [
        decider.metered[outcome.arrival.request.request_id] / (outcome.gpu_s * per_gpu_s)
        for outcome in outcomes
    ]
    slow = [
        outcome.first_token_s is not None
        and outcome.dispatched_s is not None
        and outcome.first_token_s - outcome.dispatched_s > 1.0
        for outcome in outcomes
    ]
    unit = meter.totals.external / (SECOND_NS * (1 << 60) * 3600)
    return Compared(
        ratios=np.array(ratios),
        external_metered=unit,
        external_true=fleet.external_gpu_s * per_gpu_s,
        waited_in_engine=sum(slow) / max(1, len(slow)),
        preemptions=placement.engine.counters.preemptions,
    )
