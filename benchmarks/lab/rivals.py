"""The routers of the field, each as small as its idea: which replica, by what it knows at once.

All count their own dispatches without lag. Plain, every request is sent on arrival and the engine
queues. With a cap, a replica takes so many requests at once and the rest waits here in order of
arrival; who has waited for `wait_share` of its time to first token is refused, as nothing is won
by serving it late.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Cancelled,
    EngineReport,
    Event,
    PlacementKind,
    Progress,
    RefusalReason,
    Refuse,
    Request,
    ServingChanged,
    Start,
    Tick,
)
from scheduler.step_time.step_model import StepModel

AFFINITY_LEAST_MATCH = 0.3
RELEASE_REQUESTS = 16
RELEASE_RATIO = 1.5
"""Affinity is given up where the fullest replica has so many requests, and so many times, more
than the emptiest: the rule of the cache-aware routers."""
MOST_PREFIX_BLOCKS = 40_000
FIRST_OUTPUT_TOKENS = 256.0


@dataclass(slots=True)
class Replica:
    """What a router counts of one replica."""

    name: str
    down: bool = False
    """Whether its server is known not to serve."""
    requests: dict[str, int] = field(default_factory=dict)
    """Tokens of output so far, by request."""
    kv_tokens: int = 0
    prefill_s: float = 0.0
    known: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Prefix blocks that were sent there, the oldest first."""


Choose = Callable[["Rival", Request, list[Replica]], Replica]


class Rival:
    """A router. `content`: prefix blocks of each request, as a router sees them in its text."""

    def __init__(
        self,
        names: Sequence[str],
        choose: Choose,
        *,
        step_model: StepModel,
        content: Mapping[str, Sequence[int]],
        seed: int,
        cap: int | None = None,
        wait_share: float = 0.5,
    ) -> None:
        self.replicas = [Replica(name) for name in names]
        self.step_model = step_model
        self.content = content
        self.rng = np.random.default_rng(seed)
        self.turn = 0
        self.output_tokens = FIRST_OUTPUT_TOKENS
        self._choose = choose
        self._cap = cap
        self._wait_share = wait_share
        self._queue: deque[Request] = deque()
        self._open: dict[str, tuple[Request, Replica]] = {}

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        """Sends it, or queues it where all replicas are at the cap."""
        self._queue.append(request)
        return self._drain(now)

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Keeps the counts."""
        match event:
            case Progress():
                request, replica = self._open[event.request_id]
                before = replica.requests[event.request_id]
                if not before:
                    replica.prefill_s -= self._prefill_s(request)
                replica.kv_tokens += event.output_tokens - before
                replica.requests[event.request_id] = event.output_tokens
            case AttemptEnded():
                self.output_tokens += 0.02 * ((event.output_tokens or 0) - self.output_tokens)
                sent = self._open.get(event.request_id)
                self._forget(event.request_id)
                if event.outcome is AttemptOutcome.RETRYABLE and sent is not None:
                    self._queue.appendleft(sent[0])
                    sent[1].down = True
                return self._drain(now)
            case ServingChanged():
                for replica in self.replicas:
                    if replica.name == event.placement:
                        replica.down = not event.serving
                return self._drain(now)
            case Cancelled():
                self._forget(event.request_id)
                return self._drain(now)
            case EngineReport():
                pass
        return ()

    def tick(self, now: float) -> Tick:
        """Refuses who has waited too long."""
        return Tick(actions=tuple(self._drain(now)), next_wake_s=None)

    def _drain(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while self._queue:
            request = self._queue[0]
            if now - request.arrival_s > self._wait_share * request.slo.ttft_s:
                actions.append(
                    Refuse(
                        request_id=request.request_id,
                        reason=RefusalReason.QUEUE_TIMEOUT,
                        message="waited too long",
                        retry_after_s=None,
                    )
                )
                self._queue.popleft()
                continue
            cap = self._cap
            free = [
                r for r in self.replicas if not r.down and (cap is None or len(r.requests) < cap)
            ]
            if not free:
                break
            self._queue.popleft()
            actions.append(self._send(request, self._choose(self, request, free)))
        return actions

    def _send(self, request: Request, replica: Replica) -> Start:
        replica.requests[request.request_id] = 0
        replica.kv_tokens += request.prompt_tokens
        replica.prefill_s += self._prefill_s(request)
        self._open[request.request_id] = request, replica
        for block in self.content.get(request.request_id, ()):
            replica.known[block] = None
            replica.known.move_to_end(block)
        while len(replica.known) > MOST_PREFIX_BLOCKS:
            replica.known.popitem(last=False)
        return Start(
            request_id=request.request_id,
            attempt=1,
            placement=replica.name,
            kind=PlacementKind.SELF_HOSTED,
            reason="",
            predicted_ttft_s=None,
            predicted_tpot_s=None,
        )

    def _forget(self, request_id: str) -> None:
        found = self._open.pop(request_id, None)
        if found is None:
            self._queue = deque(r for r in self._queue if r.request_id != request_id)
            return
        request, replica = found
        tokens = replica.requests.pop(request_id)
        replica.kv_tokens -= request.prompt_tokens + tokens
        if not tokens:
            replica.prefill_s -= self._prefill_s(request)

    def _prefill_s(self, request: Request) -> float:
        return self.step_model.prefill_time_s(request.prompt_tokens, request.prompt_tokens)


def round_robin(rival: Rival, request: Request, free: list[Replica]) -> Replica:
    """The next one that is free."""
    names = {replica.name for replica in free}
    while True:
        replica = rival.replicas[rival.turn % len(rival.replicas)]
        rival.turn += 1
        if replica.name in names:
            return replica


def least_request(rival: Rival, request: Request, free: list[Replica]) -> Replica:
    """The one with the fewest requests; ties in turn."""
    rival.turn += 1
    start = rival.turn % len(free)
    return min(free[start:] + free[:start], key=lambda r: len(r.requests))


def power_of_two(rival: Rival, request: Request, free: list[Replica]) -> Replica:
    """The better of two at random."""
    first, second = rival.rng.integers(0, len(free), 2)
    return min((free[int(first)], free[int(second)]), key=lambda r: len(r.requests))


def prefix_affinity(rival: Rival, request: Request, free: list[Replica]) -> Replica:
    """The one that knows most of the prompt, unless the fleet is out of balance."""
    loads = [len(replica.requests) for replica in rival.replicas if not replica.down]
    if max(loads) - min(loads) > RELEASE_REQUESTS and max(loads) > RELEASE_RATIO * min(loads):
        return least_request(rival, request, free)
    content = rival.content.get(request.request_id, ())

    def known(replica: Replica) -> int:
        count = 0
        for block in content:
            if block not in replica.known:
                break
            count += 1
        return count

    best = max(free, key=known)
    if content and known(best) >= AFFINITY_LEAST_MATCH * len(content):
        return best
    return least_request(rival, request, free)


def least_kv(rival: Rival, request: Request, free: list[Replica]) -> Replica:
    """The one with the fewest resident tokens."""
    return min(free, key=lambda r: r.kv_tokens)


def drain_time(rival: Rival, request: Request, free: list[Replica]) -> Replica:
    """The one that would be empty first, newcomer included, by the step model."""

    def drain_s(replica: Replica) -> float:
        batch = len(replica.requests) + 1
        mean = rival.output_tokens
        left = mean + sum(max(0.1 * mean, mean - done) for done in replica.requests.values())
        step_s = rival.step_model.decode_step_s(batch, replica.kv_tokens + request.prompt_tokens)
        return replica.prefill_s + left * step_s / batch

    return min(free, key=drain_s)


RIVALS: dict[str, Choose] = {
    "round-robin": round_robin,
    "least-request": least_request,
    "power-of-two": power_of_two,
    "prefix-affinity": prefix_affinity,
    "least-kv": least_kv,
    "drain-time": drain_time,
}
