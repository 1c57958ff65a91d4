"""How long the scheduler takes: from `submit` to its action, and every failed look with it.

    python -m benchmarks.decisions

A fleet of N equal placements under a load that keeps it full, so that requests wait and most looks
find no place. Per request all time spent in the scheduler until its action came back is summed:
its own submit, and its looks at later events. Progress events and reports are fed as in production
and timed apart.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from scheduler.core import Scheduler, SchedulerLimits
from scheduler.fleet import Placement
from scheduler.flow_control import QueueLimits
from scheduler.step_model import QWEN3_30B_H100
from scheduler.types import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Dispatch,
    Event,
    PlacementKind,
    Progress,
    Reject,
    Request,
    ServingChanged,
    Slo,
    SloClass,
)

BATCH = 40
"""Streams of a placement that its promise allows, about."""
PROGRESS_S = 0.05
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

    def run(self, count: int) -> None:
        """Plays `count` arrivals."""
        core = Scheduler(
            (
                Placement(
                    name=f"p/{i}", pool="p", kind=PlacementKind.LOCAL, model="moe",
                    max_running=256, kv_capacity_tokens=600_000, step_model=QWEN3_30B_H100,
                    nano_usd_per_s=700_000,
                )
                for i in range(self.placements)
            ),
            SchedulerLimits(queue=QueueLimits(requests=4096, size_bytes=1 << 30), attempts=1),
        )  # fmt: skip
        for i in range(self.placements):
            core.handle(ServingChanged(placement=f"p/{i}", serving=True, reason=""), 0.0)
        now, next_tick_s = 0.0, PROGRESS_S
        for number in range(count):
            now += self.rng.exponential(1.0 / self.rate_per_s)
            while self.events and self.events[0][0] < now:
                at_s, _, event = heapq.heappop(self.events)
                self.tell(core, event, at_s)
            if now >= next_tick_s:
                self.tell_progress(core, now)
                self.perform(core.tick(now).actions, now)
                next_tick_s = now + PROGRESS_S
            request = self.request(f"r{number}", now)
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
                began_s = time.thread_time()
                self.perform(core.handle(progress, now), now)
                self.progress_s.append(time.thread_time() - began_s)

    def tell(self, core: Scheduler, event: Event, now: float) -> None:
        """An event, timed; what it made the scheduler do counts for the requests that it moved."""
        began_s = time.thread_time()
        actions = core.handle(event, now)
        took_s = time.thread_time() - began_s
        if isinstance(event, AttemptEnded):
            del self.streams[event.request_id]
        for action in actions:
            self.spent_s[action.request_id] += took_s / len(actions)
        self.perform(actions, now)

    def perform(self, actions: tuple[Action, ...], now: float) -> None:
        """Streams that run at TOKEN_S a token."""
        for action in actions:
            if isinstance(action, Reject):
                self.rejected += 1
                self.spent_s.pop(action.request_id, None)
            elif isinstance(action, Dispatch):
                self.action_s.append(self.spent_s.pop(action.request_id))
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


def main() -> int:
    """Prints a row per fleet size."""
    parser = argparse.ArgumentParser(description="Time from submit to action.")
    parser.add_argument("--placements", type=int, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--load", type=float, nargs="+", default=[0.8, 1.1])
    parser.add_argument("--count", type=int, default=3000, help="arrivals measured")
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
            warm = int(rate * arguments.warm_s)
            bench.run(warm + arguments.count)
            submit, action = np.array(bench.submit_s[warm:]), np.array(bench.action_s[warm // 2 :])
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
