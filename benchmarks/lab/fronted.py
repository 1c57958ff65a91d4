"""The scheduler behind the link of several fronts, in virtual time.

What a front tells and is told takes a hop each way: the millisecond for which the link gathers
messages at most, and the network. Progress is told in one batch a front every 50 ms, each front at
its own time, and taken up for all fronts together at the scheduler's tick. Requests go to the
fronts in turn, and messages of one front keep their order. Engines are scraped by the scheduler's
process, as in production, without a hop.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from scheduler.contract import (
    Action,
    AttemptEnded,
    Cancelled,
    EngineReport,
    Event,
    Progress,
    Refuse,
    Request,
    ServingChanged,
    Start,
    Tick,
)
from simulation.decider import Decider

HOP_S = 0.0015
"""A millisecond of gathering, and half of one for a network."""
BATCH_S = 0.05
"""Time between two batches of progress of a front."""
TICK_S = 0.05
"""Time between two ticks of the scheduler."""
LINK_TICK_S = 0.0005
"""Time between two looks at what has arrived."""


class Fronted:
    """A decider whose callers are `fronts` fronts. `tick` must be called every `LINK_TICK_S`."""

    def __init__(self, decider: Decider, fronts: int) -> None:
        self._decider = decider
        self._fronts = fronts
        self._next = 0
        self._front: dict[str, int] = {}
        self._pushed = 0
        self._messages: list[tuple[float, int, Request | Event]] = []
        self._answers: list[tuple[float, int, Action]] = []
        self._progress: list[dict[str, Progress]] = [{} for _ in range(fronts)]
        self._batch_s = [BATCH_S * front / fronts for front in range(fronts)]
        self._held: dict[str, Progress] = {}
        """Progress that has arrived since the last tick."""
        self._gone: set[str] = set()
        self._tick_s = 0.0
        self._taken_up_s = 0.0

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        """A new request, at the next front."""
        self._front[request.request_id] = self._next
        self._next = (self._next + 1) % self._fronts
        self._post(request, now)
        return ()

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """What a front tells, or an engine."""
        match event:
            case EngineReport() | ServingChanged():
                self._answer(self._decider.handle(event, now), now)
            case Progress():
                self._progress[self._front[event.request_id]][event.request_id] = event
            case _:
                if isinstance(event, Cancelled):
                    self._gone.add(event.request_id)
                if isinstance(event, AttemptEnded | Cancelled):
                    self._progress[self._front[event.request_id]].pop(event.request_id, None)
                self._post(event, now)
        return ()

    def tick(self, now: float) -> Tick:
        """Delivers what has arrived on both sides."""
        for front, batch in enumerate(self._progress):
            if now >= self._batch_s[front]:
                self._batch_s[front] += BATCH_S * (1 + (now - self._batch_s[front]) // BATCH_S)
                for event in batch.values():
                    self._post(event, now)
                batch.clear()
        while self._messages and self._messages[0][0] <= now:
            at_s, _, message = heapq.heappop(self._messages)
            if isinstance(message, Progress):
                self._held[message.request_id] = message
                continue
            if isinstance(message, AttemptEnded | Cancelled):
                self._held.pop(message.request_id, None)
            found = (
                self._decider.submit(message, at_s)
                if isinstance(message, Request)
                else self._decider.handle(message, at_s)
            )
            self._answer(found, at_s)
        if now >= self._taken_up_s + TICK_S:
            self._taken_up_s = now
            for progress in self._held.values():
                self._answer(self._decider.handle(progress, now), now)
            self._held.clear()
        if now >= self._tick_s:
            tick = self._decider.tick(now)
            wake_s = tick.next_wake_s
            self._tick_s = now + TICK_S if wake_s is None else min(wake_s, now + TICK_S)
            self._answer(tick.actions, now)
        actions = []
        while self._answers and self._answers[0][0] <= now:
            action = heapq.heappop(self._answers)[2]
            # The front has taken the request back meanwhile, and has said so.
            if not isinstance(action, Start | Refuse) or action.request_id not in self._gone:
                actions.append(action)
        return Tick(actions=tuple(actions), next_wake_s=None)

    def _post(self, message: Request | Event, now: float) -> None:
        self._pushed += 1
        heapq.heappush(self._messages, (now + HOP_S, self._pushed, message))

    def _answer(self, actions: Sequence[Action], now: float) -> None:
        for action in actions:
            self._pushed += 1
            heapq.heappush(self._answers, (now + HOP_S, self._pushed, action))
