"""A job that this process runs: what of it waits, is in flight, or waits for another try.

Pure state, without I/O: the runner asks it what to start, and tells it what happened.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from dataclasses import dataclass, field

from gateway.batch.jobs import Item, Job
from gateway.batch.running.retries import MOST_FAILURES, Retry, wait_s
from gateway.batch.store.jobs import Claim

BUDGET_SHARE = 8
"""An item gets this part of what is left of the job's budget, and all of it when it runs alone."""


@dataclass(slots=True)
class Tries:
    """Runs of one item so far. `alone`: it needs all that is left of the budget."""

    runs: int = 0
    failures: int = 0
    alone: bool = False


@dataclass(slots=True)
class KnownOrder:
    """How the waiting items of a model were ordered. `observed`: requests whose experts were known;
    `until_place`: items of this and later places were ordered with less."""

    observed: int = 0
    until_place: float = -1


@dataclass(slots=True, eq=False)
class RunningJob:
    """A job with its claim.

    Attributes:
        waiting: items by model that nobody has taken.
        taken: items by model that are taken and not started.
        tasks: runs in progress, by the number of the item.
        delayed: items that wait before another try: (time, number, item).
        allotted_nano_usd: of the job's budget, by the number of the item.
        orders: of its items, by model.
        stopped: code for all that is left, once the job is being stopped; empty: it runs.
    """

    claim: Claim
    job: Job
    is_ready: bool = False
    waiting: dict[str, int] = field(default_factory=dict)
    taken: dict[str, deque[Item]] = field(default_factory=dict)
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    delayed: list[tuple[float, int, Item]] = field(default_factory=list)
    tries: dict[int, Tries] = field(default_factory=dict)
    allotted_nano_usd: dict[int, int] = field(default_factory=dict)
    charged_nano_usd: int = 0
    orders: dict[str, KnownOrder] = field(default_factory=dict)
    stopped: str = ""

    @property
    def is_over(self) -> bool:
        """Whether every item has ended."""
        return (
            self.is_ready
            and not self.tasks
            and not self.delayed
            and not any(self.waiting.values())
            and not any(self.taken.values())
        )

    def models(self) -> set[str]:
        """Models for which something could be started."""
        return {
            *(model for model, count in self.waiting.items() if count),
            *(model for model, items in self.taken.items() if items),
        }

    def add_taken(self, model: str, items: list[Item]) -> None:
        """Adds items that were taken. None: there are no more of the model."""
        self.taken.setdefault(model, deque()).extend(items)
        self.waiting[model] = self.waiting.get(model, 0) - len(items) if items else 0

    def release_due(self, now_s: float) -> None:
        """Lets items whose wait is over be started, before others."""
        while self.delayed and self.delayed[0][0] <= now_s:
            _, _, item = heapq.heappop(self.delayed)
            self.taken.setdefault(item.model, deque()).appendleft(item)

    def next_item(self, model: str) -> Item | None:
        """Takes the next item of a model. One that needs the whole rest of the budget waits until
        nothing else runs, and nothing starts beside it."""
        items = self.taken.get(model)
        if not items or any(self._runs_alone(number) for number in self.tasks):
            return None
        if self._runs_alone(items[0].number) and self.tasks:
            return None
        return items.popleft()

    def _runs_alone(self, number: int) -> bool:
        tries = self.tries.get(number)
        return tries is not None and tries.alone

    def begin(self, item: Item) -> int | None:
        """Counts a run of an item. Returns the part of the job's budget that it may spend, in
        nano-USD; None: the job has no budget."""
        tries = self.tries.setdefault(item.number, Tries())
        tries.runs += 1
        cap = self.job.terms.max_cost_nano_usd
        if cap is None:
            return None
        left = max(0, cap - self.charged_nano_usd - sum(self.allotted_nano_usd.values()))
        share = left if tries.alone or not self.allotted_nano_usd else left // BUDGET_SHARE
        tries.alone = share == left
        self.allotted_nano_usd[item.number] = share
        return share

    def end(self, item: Item, charged_nano_usd: int | None) -> None:
        """Counts an item that has ended."""
        self.allotted_nano_usd.pop(item.number, None)
        self.tries.pop(item.number, None)
        self.charged_nano_usd += charged_nano_usd or 0

    def try_again(self, item: Item, retry: Retry, now_s: float) -> bool:
        """Whether an item runs again; then it waits for that."""
        tries = self.tries[item.number]
        self.allotted_nano_usd.pop(item.number, None)
        if retry.for_budget:
            if tries.alone:
                return False  # it had all that is left
            tries.alone = True
            self.taken.setdefault(item.model, deque()).appendleft(item)
            return True
        tries.alone = False
        tries.failures += retry.is_failure
        if tries.failures >= MOST_FAILURES:
            return False
        due_s = now_s + wait_s(tries.runs, retry.after_s)
        heapq.heappush(self.delayed, (due_s, item.number, item))
        return True
