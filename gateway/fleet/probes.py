"""Life of the placements: into service after a real token, out when they fail, their reports.

One task per own replica. An own replica enters service when it lists its model and has answered a
one-token request (its /health is 200 even when the engine cannot serve), and leaves on a refused
connection or two failed looks at its metrics. A replica that was silent towards a request is asked
for a token again, and leaves if none comes: an engine can hang behind a server that answers. A
remote is presumed good: only requests show what it does, and its breaker what follows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chunk, EngineHints, Generation, Sampling
from gateway.upstream.vllm.metrics import BadMetrics, parse_metrics, parse_rank_metrics
from scheduler.contract import Event, ServingChanged

log = logging.getLogger(__name__)

PROBE_DEADLINE_S = 60.0
"""A first request can meet one-off compilations in the engine that take tens of seconds."""
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 10.0
"""Waits between two tries to bring a replica into service."""
FAILED_LOOKS = 2
"""Failed looks at the metrics, one after the other, that end a replica's service."""


class Engine(Protocol):
    """What is asked of a vLLM server beside generations. Raises UpstreamFailure."""

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Runs a generation."""

    async def list_models(self) -> dict[str, int | None]:
        """Context length by model name."""

    async def metrics(self) -> bytes:
        """The Prometheus text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """An own replica to watch. `placements`: itself, or its data-parallel ranks in order."""

    replica: str
    placements: tuple[str, ...]
    upstream_model: str
    engine: Engine


class Prober:
    """Watches all placements and reports to the dispatcher."""

    def __init__(
        self,
        *,
        replicas: tuple[Probed, ...],
        remotes: tuple[str, ...],
        interval_s: float,
        clock: Callable[[], float],
        report: Callable[[Event], None],
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        self._replicas = {replica.replica: replica for replica in replicas}
        self._replica_of = {name: r.replica for r in replicas for name in r.placements}
        self._remotes = remotes
        self._interval_s = interval_s
        self._clock = clock
        self._report = report
        self._on_change = on_change
        self._refused = {replica.replica: asyncio.Event() for replica in replicas}
        self._silent: set[str] = set()
        self._group: asyncio.TaskGroup | None = None
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._in_service: set[str] = set()

    def assume_in_service(self, placement: str) -> None:
        """It served under the configuration before: only the end of that is news."""
        self._in_service.add(self._replica_of.get(placement, placement))

    def note_refused(self, placement: str) -> None:
        """A connection was refused: the placement is out already, look at it again."""
        refused = self._refused.get(self._replica_of.get(placement, ""))
        if refused is not None:
            refused.set()

    def note_silent(self, placement: str) -> None:
        """A request got no token in time: make sure that the placement still generates."""
        self._silent.add(self._replica_of.get(placement, placement))

    def watch(self, replica: Probed) -> None:
        """A replica has appeared at a place that had none."""
        self._replicas[replica.replica] = replica
        self._replica_of.update(dict.fromkeys(replica.placements, replica.replica))
        self._refused[replica.replica] = asyncio.Event()
        if self._group is not None:
            self._start(self._group, replica)

    async def forget(self, name: str, reason: str) -> None:
        """The replica is gone: it gets no new requests, whatever it still answers."""
        replica = self._replicas.pop(name)
        del self._refused[name]
        for placement in replica.placements:
            del self._replica_of[placement]
        self._silent.discard(name)
        if (watching := self._watching.pop(name, None)) is not None:
            watching.cancel()
        await self._serving(replica, False, reason)

    async def run(self) -> None:
        """Watches until cancelled."""
        for remote in self._remotes:
            self._tell(remote, (remote,), True, "presumed good")
        await self._on_change()
        async with asyncio.TaskGroup() as group:
            self._group = group
            for replica in self._replicas.values():
                self._start(group, replica)
            await asyncio.Event().wait()  # more may appear, even where there are none yet

    def _start(self, group: asyncio.TaskGroup, replica: Probed) -> None:
        self._watching[replica.replica] = group.create_task(self._watch_replica(replica))

    async def _watch_replica(self, replica: Probed) -> None:
        name = replica.replica
        refused = self._refused[name]
        while True:
            context_tokens = await self._bring_up(replica)
            refused.clear()
            self._silent.discard(name)
            await self._serving(replica, True, "answered a one-token request")
            failed = 0
            reason = ""
            while failed < FAILED_LOOKS and not refused.is_set():
                try:
                    if name in self._silent:
                        failed = FAILED_LOOKS - 1  # one more sign of trouble is enough
                        await self._one_token(replica)
                        self._silent.discard(name)
                    await self._look(replica, context_tokens)
                    failed = 0
                except (UpstreamFailure, BadMetrics) as error:
                    failed += 1
                    reason = str(error)
                await _wait(refused, self._interval_s)
            if failed >= FAILED_LOOKS:
                await self._serving(replica, False, reason)
            else:
                self._in_service.discard(name)  # by the dispatcher; the next try tells the reason

    async def _bring_up(self, replica: Probed) -> int | None:
        """Returns the context length once the replica has generated a token."""
        backoff_s, last_reason = FIRST_BACKOFF_S, ""
        while True:
            try:
                models = await replica.engine.list_models()
                if replica.upstream_model not in models:
                    known = ", ".join(sorted(models)) or "none"
                    reason = f"serves {known}, not {replica.upstream_model}: mend upstream_model"
                else:
                    await self._one_token(replica)
                    await self._look(replica, models[replica.upstream_model])
                    return models[replica.upstream_model]
            except (UpstreamFailure, BadMetrics) as error:
                reason = str(error)
            if reason != last_reason:
                await self._serving(replica, False, reason)
                last_reason = reason
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    async def _one_token(self, replica: Probed) -> None:
        """Of every rank where they are pinned: the engine then has as many, and lets them be."""
        ranks = range(len(replica.placements)) if len(replica.placements) > 1 else (None,)
        for rank in ranks:
            await self._one_token_of(replica, rank)

    async def _one_token_of(self, replica: Probed, rank: int | None) -> None:
        generation = Generation(
            request_id="moegate-probe",
            model=replica.upstream_model,
            input="Hello",
            max_output_tokens=1,
            sampling=Sampling(temperature=0.0),
            ignore_eos=True,
            hints=EngineHints(dp_rank=rank),
        )
        deadline_s = asyncio.get_running_loop().time() + PROBE_DEADLINE_S
        async with aclosing(replica.engine.stream(generation, deadline_s=deadline_s)) as chunks:
            async for _ in chunks:
                pass

    async def _look(self, replica: Probed, context_tokens: int | None) -> None:
        text, at_s, names = await replica.engine.metrics(), self._clock(), replica.placements
        if len(names) == 1:
            self._report(parse_metrics(text, names[0], at_s, context_tokens))
            return
        for report in parse_rank_metrics(text, names, at_s, context_tokens):
            self._report(report)

    async def _serving(self, replica: Probed, serving: bool, reason: str) -> None:
        self._tell(replica.replica, replica.placements, serving, reason)
        await self._on_change()

    def _tell(self, name: str, placements: tuple[str, ...], serving: bool, reason: str) -> None:
        if not serving:
            self._in_service.discard(name)
            log.warning("%s out: %s", name, reason)
        elif name not in self._in_service:
            self._in_service.add(name)
            log.info("%s in service: %s", name, reason)
        for placement in placements:
            self._report(ServingChanged(placement=placement, serving=serving, reason=reason))


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
