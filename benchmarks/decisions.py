"""How long the scheduler takes: from `submit` to its action, and every failed try with it.

    python -m benchmarks.decisions

A fleet of N equal placements under a load that keeps it full, so that requests wait and most tries
find no place. Per request all CPU time of the scheduler until its action came back is summed: its
own submit, and its share of each later event at which it was tried, in vain or not. Progress
events are fed as in production, and those that try no request are timed apart.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Event,
    PlacementKind,
    Progress,
    Refuse,
    Request,
    ServingChanged,
    Slo,
    SloClass,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.model import model_state
from scheduler.placement import placement
from scheduler.placement.quotes import PlacementQuery, Quote
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100

BATCH = 40
"""Streams of a placement that its promise allows, about."""
PROGRESS_S = 0.05
"""As the dispatcher tells it; while the fleet fills, and nothing is measured, WARM_PROGRESS_S."""
WARM_PROGRESS_S = 0.25
TOKEN_S = 0.035


@dataclass(slots=True)
class Bench:
    """One fleet under load: virtual time, real decisions."""

    placements: int
    rate_per_s: float
    rng: np.random.Generator
    spent_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    submit_s: list[float] = field(default_factory=list)
    action_s: list[float] = field(default_factory=list)
    progress_s: list[float] = field(default_factory=list)
    rejected: int = 0
    waited: int = 0
    events: list[tuple[float, int, Event]] = field(default_factory=list)
    pushed: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    streams: dict[str, float] = field(default_factory=dict)
    """When the first token of each running stream comes."""

    looked: list[str] = field(default_factory=list)
    """Requests looked at since the last event."""

    def run(self, count: int, warm_s: float) -> None:
        """Plays `count` arrivals after those of `warm_s`."""
        choose = placement.choose

        def noted(
            fleet: SelfHostedFleet, query: PlacementQuery, *rest: Any
        ) -> tuple[int | None, Quote]:
            self.looked.append(query.request.request_id)
            return choose(fleet, query, *rest)

        with mock.patch.object(model_state, "choose", noted):
            self._play(count + int(self.rate_per_s * warm_s), warm_s)

    def _play(self, count: int, warm_s: float) -> None:
        core = Scheduler(
            (
                Placement(
                    name=f"p/{i}", pool="p", kind=PlacementKind.SELF_HOSTED, model="moe",
                    max_running=256, kv_capacity_tokens=600_000, step_model=QWEN3_30B_H100,
                    nano_usd_per_s=700_000,
                )
                for i in range(self.placements)
            ),
            SchedulerLimits(queue=QueueLimits(requests=4096, size_bytes=1 << 30), attempts=1),
        )  # fmt: skip
        for i in range(self.placements):
            core.handle(ServingChanged(placement=f"p/{i}", serving=True, reason=""), 0.0)
        now, next_tick_s = 0.0, WARM_PROGRESS_S
        for number in range(count):
            now += self.rng.exponential(1.0 / self.rate_per_s)
            while self.events and self.events[0][0] < now:
                at_s, _, event = heapq.heappop(self.events)
                self.tell(core, event, at_s)
            if now >= next_tick_s:
                self.tell_progress(core, now)
                self.timed(partial(_tick, core, now), now)
                next_tick_s = now + (WARM_PROGRESS_S if now < warm_s - 1.0 else PROGRESS_S)
            request = self.request(f"r{number}", now)
            self.looked.clear()
            began_s = time.thread_time()
            actions = core.submit(request, now)
            took_s = time.thread_time() - began_s
            self.submit_s.append(took_s)
            self.spent_s[request.request_id] += took_s
            self.waited += not actions
            self.perform(actions, now)

    def request(self, request_id: str, now: float) -> Request:
        """Lengths of the order of public chat traces."""
        self.lengths[request_id] = max(2, int(self.rng.exponential(200.0)))
        return Request(
            request_id=request_id, tenant=f"t{self.rng.integers(12)}", model="moe", arrival_s=now,
            deadline_s=now + 600.0,
            slo=Slo(slo_class=SloClass.INTERACTIVE, ttft_s=2.0, tpot_s=0.05, max_queue_s=2.0),
            priority=0, prompt_tokens=int(self.rng.lognormal(6.8, 0.9)), max_output_tokens=4096,
            choices=1, size_bytes=4000, remote_classes=frozenset(),
        )  # fmt: skip

    def tell_progress(self, core: Scheduler, now: float) -> None:
        """Every running stream's tokens, as the dispatcher tells them."""
        for request_id, first_s in self.streams.items():
            if first_s < now:
                tokens = 1 + int((now - first_s) / TOKEN_S)
                progress = Progress(request_id=request_id, attempt=1, output_tokens=tokens)
                took_s = self.timed(partial(core.handle, progress, now), now)
                if not self.looked:
                    self.progress_s.append(took_s)

    def tell(self, core: Scheduler, event: Event, now: float) -> None:
        """An event, timed."""
        if isinstance(event, AttemptEnded):
            del self.streams[event.request_id]
        self.timed(partial(core.handle, event, now), now)

    def timed(self, work: Callable[[], tuple[Action, ...]], now: float) -> float:
        """Does it and what comes of it; the time counts for those who were looked at."""
        self.looked.clear()
        began_s = time.thread_time()
        actions = work()
        took_s = time.thread_time() - began_s
        for request_id in self.looked:
            self.spent_s[request_id] += took_s / len(self.looked)
        self.perform(actions, now)
        return took_s

    def perform(self, actions: tuple[Action, ...], now: float) -> None:
        """Streams that run at TOKEN_S a token."""
        for action in actions:
            if isinstance(action, Refuse):
                self.rejected += 1
                self.spent_s.pop(action.request_id, None)
            elif isinstance(action, Start):
                self.action_s.append(self.spent_s.pop(action.request_id, 0.0))
                tokens = self.lengths.pop(action.request_id)
                first_s = self.streams[action.request_id] = now + 0.1
                first = Progress(request_id=action.request_id, attempt=1, output_tokens=1)
                ended = AttemptEnded(
                    request_id=action.request_id, attempt=1, outcome=AttemptOutcome.OK,
                    output_tokens=tokens,
                )  # fmt: skip
                self.push(first_s, first)
                self.push(first_s + TOKEN_S * tokens, ended)

    def push(self, at_s: float, event: Event) -> None:
        """An event to come."""
        self.pushed += 1
        heapq.heappush(self.events, (at_s, self.pushed, event))


def _tick(core: Scheduler, now: float) -> tuple[Action, ...]:
    return core.tick(now).actions


def main() -> int:
    """Prints a row per fleet size."""
    parser = argparse.ArgumentParser(description="Time from submit to action.")
    parser.add_argument("--placements", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--load", type=float, nargs="+", default=[0.8, 1.1])
    parser.add_argument("--count", type=int, default=2000, help="arrivals measured")
    parser.add_argument("--warm-s", type=float, default=8.0, help="virtual time before it")
    arguments = parser.parse_args()
    print(
        f"{'placements':>10} {'load':>5} {'submit p50/p99 us':>20} {'to action p50/p99 us':>22}"
        f" {'progress p50 us':>16} {'waited':>7} {'refused':>8}"
    )
    for placements in arguments.placements:
        for load in arguments.load:
            rate = load * placements * BATCH / (0.1 + 200 * TOKEN_S)
            bench = Bench(placements, rate, np.random.default_rng(1))
            bench.run(arguments.count, arguments.warm_s)
            submit = np.array(bench.submit_s[-arguments.count :])
            action = np.array(bench.action_s[-arguments.count :])
            progress = np.array(bench.progress_s[-20_000:])
            print(
                f"{placements:10d} {load:5.2f}"
                f" {np.median(submit) * 1e6:9.0f} / {np.percentile(submit, 99) * 1e6:8.0f}"
                f" {np.median(action) * 1e6:11.0f} / {np.percentile(action, 99) * 1e6:8.0f}"
                f" {np.median(progress) * 1e6:16.1f}"
                f" {bench.waited / len(bench.submit_s):7.2f}"
                f" {bench.rejected / len(bench.submit_s):8.3f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
