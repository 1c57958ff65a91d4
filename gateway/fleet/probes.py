"""Watches placements: brings replicas into service after a real token, and takes failed ones out.

One task per self-hosted replica. A replica enters service when it lists its model and has answered
a one-token request (its /health is 200 even when the engine cannot serve). It leaves service on a
refused connection, or after two failed reads of its metrics. A replica that was silent towards a
request must generate a token again, and leaves service if none comes: an engine can hang behind a
server that answers. So must one whose gauges and counters stand still while it says that requests
run (`standing_gauges`). A remote is presumed to be good: only requests show its state, and its
circuit breaker follows them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from gateway.config.tasks import Task
from gateway.domain.failures import UpstreamFailure, one_line
from gateway.domain.generation import Chunk, EngineHints, Generation, Prompt, Sampling
from gateway.domain.pooling import EmbeddingInput, PoolingInput, ScoringInput
from gateway.fleet.adapters import RELIST_S, AdapterRules, adapter_report, loaded_adapters
from gateway.fleet.engine_feed import EngineFeed, Signatures
from gateway.fleet.keyed_tasks import KeyedTasks
from gateway.fleet.server_info import ServerInfoWatch
from gateway.fleet.standing_gauges import StandingGauges
from gateway.upstream.vllm.client import ListedModel
from gateway.upstream.vllm.metrics import (
    BadMetrics,
    parse_metrics,
    parse_rank_metrics,
    parse_stage_metrics,
)
from scheduler.contract import EngineReport, Event, ServingChanged

log = logging.getLogger(__name__)

PROBE_DEADLINE_S = 60.0
"""A first request can meet one-off compilations in the engine that take tens of seconds."""
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 10.0
"""Delays between two attempts to bring a replica into service."""
PROMPT = "Hello, this is a check of whether you can generate a first token right now."
"""Some 16 tokens. vLLM's CPU worker on processors with AMX dies by SIGILL if its first request has
3 tokens or fewer."""
INPUTS: Mapping[Task, Prompt | PoolingInput] = {
    Task.GENERATE: PROMPT,
    Task.EMBED: EmbeddingInput(inputs=(PROMPT,)),
    Task.SCORE: ScoringInput(query=PROMPT, documents=(PROMPT,)),
}
ANSWERS = {
    Task.GENERATE: "answered a one-token request",
    Task.EMBED: "answered a request for a vector",
    Task.SCORE: "answered a request for a score",
}
"""Reasons of a replica's service."""
PRESUMED_GOOD = "presumed good"
"""Reason of a remote's service."""
MAX_NAMES, MAX_NAME_CHARS = 10, 100
"""Most names of models in a message, and characters of each."""
FAILED_READS = 2
"""Consecutive failed reads of the metrics after which a replica is out of service."""


Server = tuple[str, str, Task, tuple[str, ...]]
"""Address, model, task and placements."""


class Engine(Protocol):
    """What the prober asks of a vLLM server. Raises UpstreamFailure."""

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Runs a generation."""

    async def list_models(self) -> dict[str, ListedModel]:
        """What the server lists, by name."""

    async def metrics(self) -> bytes:
        """The metrics in Prometheus' text format."""

    async def steps(self, cursors: Sequence[str]) -> bytes:
        """What moegate's plugin tells from the cursors on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedReplica:
    """A self-hosted replica. `placements`: itself, or its pinned data-parallel ranks in order."""

    name: str
    placements: tuple[str, ...]
    url: str
    upstream_model: str
    engine: Engine
    prefill: tuple[Engine, ...] = ()
    decode: tuple[Engine, ...] = ()
    """Engines behind the proxy of a disaggregated replica, which tell its metrics; empty: `engine`
    does."""
    adapters: AdapterRules | None = None
    """Which of its LoRA adapters are offered; None: the pool has none."""
    reads_feed: bool = True
    """Whether the plugin's feed of single steps is read, where the server has it."""
    task: Task = Task.GENERATE

    @property
    def server(self) -> Server:
        """Identity of the server: when it changes, the replica must be probed like a new one."""
        return self.url, self.upstream_model, self.task, self.placements


class Prober:
    """Watches all replicas while `run` is running.

    `report` is called with `EngineReport`, `EngineSteps`, `AdapterReport` and `ServingChanged`
    events, `report_signatures` with the experts of finished requests; `on_change` is awaited after
    a placement has entered or left service, except where `apply` reports it: there the caller
    knows.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        clock: Callable[[], float],
        report: Callable[[Event], None],
        report_signatures: Callable[[Signatures], None] | None = None,
        on_change: Callable[[], Awaitable[None]],
        server_info: ServerInfoWatch,
    ) -> None:
        """`interval_s`: between two reads of the metrics of a replica; may be changed.
        `server_info`: what replicas tell of themselves beside their metrics."""
        self.interval_s = interval_s
        self._clock = clock
        self._report = report
        self._report_signatures = report_signatures
        self._on_change = on_change
        self._server_info = server_info
        self._replicas: dict[str, WatchedReplica] = {}
        self._replica_of: dict[str, str] = {}
        self._remotes: frozenset[str] = frozenset()
        self._refused: dict[str, asyncio.Event] = {}
        self._silent: set[str] = set()
        self._loaded: dict[str, tuple[float, frozenset[str]]] = {}
        """Adapters of each replica, and when they were read."""
        self._in_service: set[str] = set()
        self._watches: KeyedTasks[str, Server] = KeyedTasks("moegate-probe", self._watch)

    def apply(
        self,
        replicas: Iterable[WatchedReplica],
        remotes: Iterable[str],
        gone: Mapping[str, str] | None = None,
    ) -> None:
        """Makes these the replicas and remotes that are watched.

        An unchanged replica is not disturbed. One with another client for the same server stays in
        service, and must generate a token at its next read. One of another server leaves service
        and is probed like a new one. `gone`: reasons, by name, for what leaves.
        """
        known, gone = self._replicas, gone or {}
        self._replicas = {replica.name: replica for replica in replicas}
        self._replica_of = {p: r.name for r in self._replicas.values() for p in r.placements}
        difference = self._watches.apply({r.name: r.server for r in self._replicas.values()})
        for name in difference.removed:
            self._stop_serving(known[name], gone.get(name, "no longer configured"))
            del self._refused[name]
        for name in difference.changed:
            self._stop_serving(known[name], gone.get(name, "its address or model has changed"))
            self._refused[name] = asyncio.Event()
        for name in difference.added:
            self._refused[name] = asyncio.Event()
        for name, replica in self._replicas.items():
            if name in self._in_service and known[name].engine is not replica.engine:
                self._silent.add(name)
        self._apply_remotes(frozenset(remotes))

    def notify_refused(self, placement: str) -> None:
        """A connection was refused: the placement is out of service already, probe it again."""
        refused = self._refused.get(self._replica_of.get(placement, ""))
        if refused is not None:
            refused.set()

    def notify_silent(self, placement: str) -> None:
        """A request got no token in time: check that the replica still generates."""
        if (name := self._replica_of.get(placement)) is not None:
            self._silent.add(name)

    def notify_adapter_missing(self, placement: str) -> None:
        """A replica did not know an adapter: read its adapters anew, with the next metrics."""
        self._loaded.pop(self._replica_of.get(placement, ""), None)

    async def run(self) -> None:
        """Watches until cancelled."""
        for remote in sorted(self._remotes):
            self._report_serving(remote, (remote,), True, PRESUMED_GOOD)
        await self._on_change()
        await self._watches.run()

    def _apply_remotes(self, remotes: frozenset[str]) -> None:
        known, self._remotes = self._remotes, remotes
        if not self._watches.running:
            return
        for remote in sorted(remotes - known):
            self._report_serving(remote, (remote,), True, PRESUMED_GOOD)
        for remote in sorted(known - remotes):
            self._report_serving(remote, (remote,), False, "no longer configured")

    def _stop_serving(self, replica: WatchedReplica, reason: str) -> None:
        self._silent.discard(replica.name)
        self._report_serving(replica.name, replica.placements, False, reason)

    async def _watch(self, name: str, server: Server) -> None:
        """Watches a replica, whose client may change meanwhile, until cancelled."""
        del server  # another one is another watch
        refused = self._refused[name]
        feed = EngineFeed(name, self._replicas[name].placements[0], self._clock)
        while True:
            context_tokens = await self._bring_up(name)
            refused.clear()
            self._silent.discard(name)
            self._server_info.notify_in_service(name)
            await self._change_serving(name, True, ANSWERS[self._replicas[name].task])
            gauges = {p: StandingGauges() for p in self._replicas[name].placements}
            failed = 0
            reason = ""
            while failed < FAILED_READS and not refused.is_set():
                try:
                    probed = name in self._silent
                    if probed:
                        failed = FAILED_READS - 1  # one more sign of trouble is enough
                        self._silent.discard(name)
                        await self._generate_one_token(self._replicas[name])
                    text, reports = await self._read_metrics(self._replicas[name], context_tokens)
                    for report in reports:
                        self._report(self._judged(name, gauges[report.placement], report, probed))
                    await self._report_adapters(self._replicas[name], text)
                    if self._replicas[name].reads_feed:
                        await feed.read(
                            self._replicas[name].engine, self._report, self._report_signatures
                        )
                    failed = 0
                except (UpstreamFailure, BadMetrics) as error:
                    failed += 1
                    reason = str(error)
                await _wait(refused, self.interval_s)
            if failed >= FAILED_READS:
                await self._change_serving(name, False, reason)
            else:
                # The dispatcher has reported it; the next probe reports the reason.
                self._in_service.discard(name)

    async def _bring_up(self, name: str) -> int | None:
        """Returns the context length once the replica has generated a token."""
        backoff_s, last_reason = FIRST_BACKOFF_S, ""
        while True:
            replica = self._replicas[name]
            try:
                models = await replica.engine.list_models()
                if replica.upstream_model not in models:
                    known = shown_names(models)
                    reason = f"serves {known}, not {replica.upstream_model}: mend upstream_model"
                else:
                    await self._generate_one_token(replica)
                    context_tokens = models[replica.upstream_model].context_tokens
                    text, reports = await self._read_metrics(replica, context_tokens)
                    for report in reports:
                        self._report(report)
                    await self._report_adapters(replica, text, models)
                    return context_tokens
            except (UpstreamFailure, BadMetrics) as error:
                reason = str(error)
            if reason != last_reason:
                await self._change_serving(name, False, reason)
                last_reason = reason
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    async def _generate_one_token(self, replica: WatchedReplica) -> None:
        """On every rank where they are pinned, which shows that the engine has that many ranks and
        accepts the header."""
        ranks = range(len(replica.placements)) if len(replica.placements) > 1 else (None,)
        for rank in ranks:
            await self._generate_on_rank(replica, rank)

    async def _generate_on_rank(self, replica: WatchedReplica, rank: int | None) -> None:
        generates = replica.task is Task.GENERATE
        generation = Generation(
            request_id="moegate-probe",
            model=replica.upstream_model,
            input=INPUTS[replica.task],
            max_output_tokens=int(generates),
            sampling=Sampling(temperature=0.0) if generates else Sampling(),
            ignore_eos=generates,
            hints=EngineHints(dp_rank=rank),
        )
        deadline_s = asyncio.get_running_loop().time() + PROBE_DEADLINE_S
        async with aclosing(replica.engine.stream(generation, deadline_s=deadline_s)) as chunks:
            async for _ in chunks:
                pass

    async def _read_metrics(
        self, replica: WatchedReplica, context_tokens: int | None
    ) -> tuple[bytes, Sequence[EngineReport]]:
        """The page, and the report of each placement."""
        names = replica.placements
        pages = [await engine.metrics() for engine in replica.prefill or (replica.engine,)]
        decode = [await engine.metrics() for engine in replica.decode]
        text, at_s = (decode or pages)[0], self._clock()
        reports: Sequence[EngineReport]
        if decode:
            reports = [parse_stage_metrics(pages, decode, names[0], at_s, context_tokens)]
        elif len(names) == 1:
            reports = [parse_metrics(text, names[0], at_s, context_tokens)]
        else:
            reports = parse_rank_metrics(text, names, at_s, context_tokens)
        completed = self._server_info.completed
        return text, [completed(replica.name, report, len(names)) for report in reports]

    async def _report_adapters(
        self, replica: WatchedReplica, metrics: bytes, listed: dict[str, ListedModel] | None = None
    ) -> None:
        """Reports the adapters of a replica. `listed`: its models, if they were just read."""
        rules, now = replica.adapters, self._clock()
        if rules is None:
            return
        at_s, loaded = self._loaded.get(replica.name, (-math.inf, frozenset()))
        if listed is not None or now - at_s >= RELIST_S:
            listed = await replica.engine.list_models() if listed is None else listed
            loaded = loaded_adapters(listed, rules)
            self._loaded[replica.name] = now, loaded
        pinned = len(replica.placements) > 1
        for placement in replica.placements:
            self._report(adapter_report(placement, loaded, metrics, rules, pinned=pinned))

    def _judged(
        self, name: str, gauges: StandingGauges, report: EngineReport, probed: bool
    ) -> EngineReport:
        """The report that the scheduler reads. A suspect engine is probed at the next read."""
        believed = gauges.believed
        judged = gauges.judge(report, probed=probed)
        if judged.suspect:
            self._silent.add(name)
        if believed and not judged.believed:
            log.warning(
                "%s says that %s requests run and %s wait, and nothing moves but a probe: its"
                " gauges are not believed until they change",
                *(report.placement, report.running, report.waiting),
            )
        elif judged.believed and not believed:
            log.info("%s: its gauges have changed and are believed again", report.placement)
        return judged.report

    async def _change_serving(self, name: str, serving: bool, reason: str) -> None:
        self._report_serving(name, self._replicas[name].placements, serving, reason)
        await self._on_change()

    def _report_serving(
        self, name: str, placements: tuple[str, ...], serving: bool, reason: str
    ) -> None:
        if not serving:
            self._in_service.discard(name)
            log.warning("%s out: %s", name, reason)
        elif name not in self._in_service:
            self._in_service.add(name)
            log.info("%s in service: %s", name, reason)
        for placement in placements:
            self._report(ServingChanged(placement=placement, serving=serving, reason=reason))


def shown_names(models: Iterable[str]) -> str:
    """Names of a server's models for a message, within its bounds."""
    names = sorted(models)
    shown = [one_line(name, MAX_NAME_CHARS) for name in names[:MAX_NAMES]]
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return ", ".join([*shown, *more]) or "none"


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
