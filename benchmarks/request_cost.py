"""What one request costs the scheduler's side: CPU of each message of its life, without any I/O.

    python -m benchmarks.request_cost [--placements 2 8 64] [--running 8] [--count 2000]
    python -m benchmarks.request_cost --waiting 64 [--placements 1]

The scheduler of production behind its port, in virtual time: submission, first token, progress
every 50 ms, end with settlement and ledger row, release. A new request comes as often as one ends,
so that `running` requests a placement run all the time. Reports and ticks are fed, but not counted.
The median of each part is printed, so that what else the machine does matters little.

With `--waiting` that many clients send one request after another, of 1,000 tokens with answers of
one, so that most requests wait: the mean of all messages and events of a request is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np

from gateway.accounting.ledger.rows import PendingRow, pending_row
from scheduler.contract import AttemptOutcome, EngineReport, Fault, Progress, Usage
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import Answer, AttemptEnd, RequestEnded, Started, Submission, Waiting
from tests.gateway.scheduling.scheduling_made import (
    ONE_USD,
    Hosted,
    config,
    running,
    settings_of,
    submission,
)

TTFT_S = 0.1
TOKEN_S = 0.025
PROGRESS_S = 0.05
REPORT_S = 1.0
PARTS = ("submit", "first token", "progress", "end", "release")


class Bench:
    """One fleet with a steady load."""

    def __init__(self, placements: int, at_once: int, tokens: int) -> None:
        self.rows: list[PendingRow] = []
        self.hosted: Hosted = running(
            settings_of(config(replicas=placements, slots=256), catalog=ONE_USD), sink=self.book
        )
        self.names = [state.facts.name for state in self.hosted.local.core.placements]
        self.rng = np.random.default_rng(1)
        self.tokens = tokens
        self.gap_s = (TTFT_S + tokens * TOKEN_S) / (at_once * placements)
        self.taken_us: dict[str, list[float]] = defaultdict(list)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.pushed = 0
        self.started = ""

    def book(self, settled: SettledAttempt) -> None:
        """The row of the ledger is made, as in production, and written by nobody."""
        self.rows.append(pending_row(settled, None))

    async def run(self, count: int, warm: int) -> None:
        """Plays `count` requests after `warm` others."""
        clock, report_s = self.hosted.clock, self.hosted.clock.now_s
        for number in range(warm + count):
            if number == warm:
                self.taken_us.clear()
            arrival_s = clock.now_s + self.rng.exponential(self.gap_s)
            while self.events and self.events[0][0] <= arrival_s:
                clock.now_s, _, act = heapq.heappop(self.events)
                act()
            clock.now_s = arrival_s
            if arrival_s >= report_s:
                self.report()
                report_s = arrival_s + REPORT_S
            await self.arrive(number)
            self.rows.clear()

    async def arrive(self, number: int) -> None:
        """A request comes; what follows is scheduled."""
        request_id = f"k/{number}"
        made = submission(
            request_id,
            arrival_s=self.hosted.clock.now_s,
            deadline_s=self.hosted.clock.now_s + 600.0,
            prompt_tokens=int(self.rng.lognormal(6.8, 0.9)),
            max_output_tokens=4096,
            tenant=f"t{number % 12}",
            ttft_s=2.0,
            tpot_s=0.5,
            prefix_blocks=(number % 50, 1000 + number),
            prefix_block_tokens=128,
        )
        self.started = ""
        began_ns = time.thread_time_ns()
        await self.hosted.local.submit(made, self.deliver)
        self.taken_us["submit"].append((time.thread_time_ns() - began_ns) / 1e3)
        if not self.started:
            raise RuntimeError("a request waits: the load is too high")
        first_s = self.hosted.clock.now_s + TTFT_S
        self.push(first_s, partial(self.send, "first token", self.progress(request_id, 1)))
        at_s, seen = first_s + PROGRESS_S, 3
        while seen < self.tokens:
            self.push(at_s, partial(self.send, "progress", self.progress(request_id, seen)))
            at_s, seen = at_s + PROGRESS_S, seen + 2
        end = self.end(made, at_s - made.request.arrival_s)
        self.push(at_s, partial(self.send, "end", end))
        self.push(at_s, partial(self.send, "release", self.ended(made)))

    def end(self, made: Submission, duration_s: float) -> AttemptEnd:
        """All tokens have come."""
        return AttemptEnd(
            request_id=made.request.request_id, attempt=1, outcome=AttemptOutcome.OK,
            detail="stop", usage=Usage(
                prompt_tokens=made.request.prompt_tokens, completion_tokens=self.tokens
            ),
            reported=True, committed=True, may_be_continued=False, abandoned=False,
            duration_s=duration_s, first_token_s=TTFT_S, ttft_s=TTFT_S,
            tpot_s=TOKEN_S, output_tokens=self.tokens, fault=Fault.NONE, retry_after_s=None,
        )  # fmt: skip

    def ended(self, made: Submission) -> RequestEnded:
        """The request is over."""
        return RequestEnded(
            request_id=made.request.request_id, used_tokens=self.tokens, keep_idempotency_key=False
        )

    def deliver(self, answer: Answer) -> None:
        """Receives what the scheduler says."""
        if isinstance(answer, Started):
            self.started = answer.start.placement

    def progress(self, request_id: str, tokens: int) -> Progress:
        """So many tokens so far."""
        return Progress(request_id=request_id, attempt=1, output_tokens=tokens)

    def send(self, part: str, message: Progress | AttemptEnd | RequestEnded) -> None:
        """Sends a message, timed."""
        began_ns = time.thread_time_ns()
        self.hosted.local.send(message)
        self.taken_us[part].append((time.thread_time_ns() - began_ns) / 1e3)

    def report(self) -> None:
        """Every engine reports what runs there, and the scheduler ticks."""
        now = self.hosted.clock.now_s
        for state in self.hosted.local.core.placements:
            report = EngineReport(
                placement=state.facts.name, at_s=now, running=state.sequences, waiting=0,
                kv_usage=0.1, prompt_tokens_total=None, generation_tokens_total=None,
                kv_capacity_tokens=600_000,
            )  # fmt: skip
            self.hosted.local.report(report)
        self.hosted.local.core.tick(now)

    def push(self, at_s: float, act: Callable[[], None]) -> None:
        """What comes later."""
        self.pushed += 1
        heapq.heappush(self.events, (at_s, self.pushed, act))


class WaitingBench(Bench):
    """A closed loop of clients that want more than the fleet can take at once."""

    def __init__(self, placements: int) -> None:
        super().__init__(placements, 1, 1)
        self.sent = self.waited = self.done = 0

    def play(self, clients: int, count: int) -> float:
        """Plays `count` requests after one of each client; CPU of one, in us."""
        for _ in range(clients):
            self.next()
        self.until(clients)
        began_ns = time.thread_time_ns()
        self.until(clients + count)
        return (time.thread_time_ns() - began_ns) / 1e3 / count

    def until(self, done: int) -> None:
        """Plays until so many requests have ended."""
        while self.done < done:
            self.hosted.clock.now_s, _, act = heapq.heappop(self.events)
            act()

    def next(self) -> None:
        """A client sends its next request."""
        self.sent += 1
        now_s = self.hosted.clock.now_s
        made = submission(
            f"k/{self.sent}", arrival_s=now_s, deadline_s=now_s + 600.0, prompt_tokens=1000,
            max_output_tokens=1, tenant=f"t{self.sent % 12}", ttft_s=2.0, tpot_s=0.5,
        )  # fmt: skip
        self.hosted.local.begin(made, partial(self.answered, made))

    def answered(self, made: Submission, answer: Answer) -> None:
        """Receives what the scheduler says of a request."""
        self.waited += isinstance(answer, Waiting)
        if isinstance(answer, Started):
            self.push(self.hosted.clock.now_s + TTFT_S, partial(self.finish, made))

    def finish(self, made: Submission) -> None:
        """The token has come, and the client sends another request."""
        send = self.hosted.local.send
        send(self.progress(made.request.request_id, 1))
        send(self.end(made, TTFT_S))
        send(self.ended(made))
        self.rows.clear()
        self.done += 1
        self.next()


def timer_us() -> float:
    """What the timer counts of itself."""
    taken = []
    for _ in range(2000):
        began_ns = time.thread_time_ns()
        taken.append((time.thread_time_ns() - began_ns) / 1e3)
    return statistics.median(taken)


def main() -> int:
    """Prints a row per number of placements."""
    parser = argparse.ArgumentParser(description="CPU of the scheduler's side per request.")
    parser.add_argument("--placements", type=int, nargs="+", default=[2, 8, 64])
    parser.add_argument("--running", type=int, default=8, help="requests a placement")
    parser.add_argument("--tokens", type=int, default=40, help="of each answer")
    parser.add_argument("--count", type=int, default=2000, help="requests measured")
    parser.add_argument("--waiting", type=int, default=0, help="clients in a closed loop")
    arguments = parser.parse_args()
    if arguments.waiting:
        for placements in arguments.placements:
            waiting = WaitingBench(placements)
            request_us = waiting.play(arguments.waiting, arguments.count)
            share = waiting.waited / waiting.sent
            print(f"{placements:10d} {request_us:10.0f} us a request, {share:.0%} wait", flush=True)
        return 0
    print(f"{'placements':>10}", *(f"{part + ' us':>15}" for part in PARTS), f"{'request us':>12}")
    own_us = timer_us()
    for placements in arguments.placements:
        bench = Bench(placements, arguments.running, arguments.tokens)
        warm = 500 + 2 * arguments.running * placements
        asyncio.run(bench.run(arguments.count, warm))
        taken = bench.taken_us
        part_us = {part: statistics.median(taken[part] or [own_us]) - own_us for part in PARTS}
        per_request = {part: len(taken[part]) / arguments.count for part in PARTS}
        whole_us = sum(part_us[part] * round(per_request[part]) for part in PARTS)
        shown = (f"{part_us[part]:15.1f}" for part in PARTS)
        print(f"{placements:10d}", *shown, f"{whole_us:12.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
