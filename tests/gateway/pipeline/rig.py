"""A pipeline with scripted upstreams and the real scheduler, without sockets.

The scheduler is the one that the gateway runs, with its core, meter, claims and budgets. The clock
is the loop's: tests run in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.accounting.budgets import Budgets
from gateway.accounting.ledger.caller_reads import CallerReads
from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.accounting.ledger.leases import Owner
from gateway.accounting.ledger.ledger import Ledger
from gateway.accounting.ledger.rows import PendingRow
from gateway.auth.authenticator import Caller
from gateway.config.gateway import GatewayConfig, KeyRole
from gateway.config.limits import LimitsConfig
from gateway.config.remote import FailuresConfig
from gateway.config.tasks import Task
from gateway.domain.generation import Chunk, Generation
from gateway.domain.outcomes import Finished, RequestOutcome
from gateway.fleet.placements import placements_of
from gateway.pipeline.active_request import Branch
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.observer import AttemptAnswer, RequestObserver
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.settings import pipeline_settings
from gateway.pipeline.upstreams import Upstream
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from gateway.scheduling.key_accounts import KeyAccounts
from gateway.scheduling.metering import Metering
from gateway.scheduling.settings import scheduling_settings
from gateway.upstream.scripted import ScriptedUpstream
from scheduler.budgets.budget import Budget
from scheduler.contract import Evict, Refuse, Request, ServingChanged, Start
from scheduler.limits.rate_limit import NO_RATE_LIMITS
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import (
    AttemptEnd,
    BranchKind,
    Deliver,
    Message,
    RequestEnded,
    Started,
    Submission,
)
from tests import serving
from tests.ledgers import RATES

T = TypeVar("T")
NOW_NS = 1_800_000_000 * 10**9
CALLER = Caller(
    tenant="team",
    key_id="key",
    role=KeyRole.CALLER,
    weight=1.0,
    models=None,
    slo_classes=(),
    remote_classes=None,
    limits=NO_RATE_LIMITS,
    message_bytes=4 << 20,
    body_bytes=32 << 20,
)
REMOTE = "far"
TURNS = 50
"""Turns of the loop after which everything that needs no time has happened."""


class _NoDatabase:
    """Nothing asks it: the writer of the rig's ledger does not run."""

    async def write(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        raise LedgerUnavailable("there is none")

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        raise LedgerUnavailable("there is none")

    async def hold_name(self, gateway: str) -> None:
        raise LedgerUnavailable("there is none")

    async def close(self) -> None:
        pass


async def _append(first_seq: int, rows: Sequence[PendingRow]) -> None:
    raise LedgerUnavailable("there is none")


def unanswered_budgets(*budgets: Budget) -> Budgets:
    """Budgets over a ledger that does not answer: a request that one applies to waits."""
    made = Budgets(Ledger(_NoDatabase(), _append, 10, None), Owner("gateway", "now"))
    made.configure(budgets)
    return made


class RecordedScheduler(InProcessScheduler):
    """Records what the pipeline submits and sends."""

    submissions: list[Submission]
    sent: list[Message]

    async def submit(self, submission: Submission, deliver: Deliver) -> None:
        self.submissions.append(submission)
        await super().submit(submission, deliver)

    def send(self, message: Message) -> None:
        self.sent.append(message)
        super().send(message)

    @property
    def request_ends(self) -> list[RequestEnded]:
        return [message for message in self.sent if isinstance(message, RequestEnded)]

    @property
    def attempt_ends(self) -> list[AttemptEnd]:
        return [message for message in self.sent if isinstance(message, AttemptEnd)]


@dataclass
class ScriptedUpstreams:
    """Implements `Upstreams`."""

    clients: dict[str, Upstream]
    cannot_continue: frozenset[str] = frozenset()
    unsupported: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    adapters_missing: list[str] = field(default_factory=list)

    def signed_by(self, generation: Generation) -> frozenset[str]:
        return frozenset()

    def unsupported_by(self, generation: Generation) -> dict[str, tuple[str, ...]]:
        return dict(self.unsupported)

    def notify_refused(self, placement: str, reason: str) -> None:
        self.refused.append(placement)

    def notify_adapter_missing(self, placement: str) -> None:
        self.adapters_missing.append(placement)

    def notify_silent(self, placement: str) -> None:
        self.silent.append(placement)


@dataclass
class RecordedObserver:
    """The calls of one request's observer, by name and with what matters of their arguments."""

    request: Request
    wants_content: bool = False
    wants_decision: bool = False
    calls: list[tuple[str, object]] = field(default_factory=list)

    def queued(self, position: int) -> None:
        self.calls.append(("queued", position))

    def started(self, start: Start, waited_s: float) -> None:
        self.calls.append(("started", start.placement))

    def refused(self, refuse: Refuse, waited_s: float) -> None:
        self.calls.append(("refused", refuse.reason))

    def attempt(self, started: Started, kind: BranchKind, generation: Generation) -> Generation:
        self.calls.append(("attempt", kind))
        return generation

    def content(self, attempt: int, chunk: Chunk) -> None:
        self.calls.append(("content", attempt))

    def attempt_ended(
        self, start: Start, end: AttemptEnd, answer: AttemptAnswer, account: SettledAttempt
    ) -> None:
        self.calls.append(("attempt_ended", end.outcome))

    def finished(self, finished: Finished) -> None:
        self.calls.append(("finished", finished.placement))

    def ended(self, outcome: RequestOutcome) -> None:
        self.calls.append(("ended", outcome))

    @property
    def outcomes(self) -> list[object]:
        return [value for name, value in self.calls if name == "ended"]


@dataclass(kw_only=True)
class Rig:
    """What a test asks and looks at. `accounts`: every attempt that was settled."""

    pipeline: Pipeline
    scheduler: RecordedScheduler
    upstreams: ScriptedUpstreams
    scripted: Mapping[str, ScriptedUpstream]
    observers: list[RecordedObserver]
    accounts: list[SettledAttempt]

    def upstream(self, placement: str) -> ScriptedUpstream:
        return self.scripted[placement]

    def branches(self, request_id: str) -> list[Branch]:
        """Branches of a request that has not ended."""
        found = [branch for active in self.pipeline._active for branch in active.branches]
        return [branch for branch in found if branch.active.request.request_id == request_id]

    @property
    def placements(self) -> list[str]:
        """Placements of all attempts that were settled."""
        return [account.placement for account in self.accounts]

    @property
    def order(self) -> list[str]:
        """Placements of all attempts, in the order of their starts."""
        return [str(v) for o in self.observers for name, v in o.calls if name == "started"]

    def assert_all_over(self) -> None:
        """Nothing runs, waits or is held any more, and everything was told once."""
        assert self.pipeline.active_requests == 0
        assert self.scheduler.active_requests == 0
        assert repr(self.scheduler.core) == "<Scheduler: 0 queued, 0 running>"
        for upstream in self.scripted.values():
            assert upstream.open_streams == 0
        for observer in self.observers:
            assert len(observer.outcomes) == 1
            names = [name for name, _ in observer.calls]
            assert names.count("attempt") == names.count("attempt_ended")
        ended = [end.request_id for end in self.scheduler.request_ends]
        assert len(ended) == len(set(ended))
        settled = [(account.request_id, account.attempt) for account in self.accounts]
        assert len(settled) == len(set(settled))
        began = [name for o in self.observers for name, _ in o.calls if name == "attempt"]
        assert len(settled) == len(self.scheduler.attempt_ends) == len(began)


@contextlib.asynccontextmanager
async def running(
    scripted: Mapping[str, ScriptedUpstream],
    *,
    failures: FailuresConfig | None = None,
    limits: LimitsConfig | None = None,
    max_running: int = 8,
    budgets: Budgets | None = None,
    serving_now: bool = True,
    wants_content: bool = False,
    task: Task = Task.GENERATE,
) -> AsyncIterator[Rig]:
    """Runs a pipeline. Self-hosted placements are named own/a, own/b; the remote is `REMOTE`."""
    local = [name for name in scripted if name != REMOTE]
    own = serving.pool([f"http://{name}" for name in local], max_num_seqs=max_running)
    far = msgspec.structs.replace(serving.remote("http://far"), task=task)
    config: GatewayConfig = msgspec.structs.replace(
        serving.config(
            pools=[msgspec.structs.replace(own, task=task)],
            remotes=[far] if REMOTE in scripted else [],
            limits=limits,
            interactive=serving.PATIENT,
        ),
        failures=failures or FailuresConfig(),
    )
    clock = asyncio.get_running_loop().time
    budgets = budgets or unanswered_budgets()
    accounts: list[SettledAttempt] = []
    observers: list[RecordedObserver] = []
    scheduler = RecordedScheduler(
        scheduling_settings(config, Path(), tuple(placements_of(config, Path()))),
        clock=clock,
        metering=Metering(clock, lambda: NOW_NS),
        budgets=budgets,
        accounts=KeyAccounts(budgets, CallerReads(_NoDatabase())),
        targets={name: (f"http://{name}", serving.MODEL) for name in scripted},
        sinks=(accounts.append,),
    )
    scheduler.submissions, scheduler.sent = [], []
    for name in scripted:
        scheduler.report(ServingChanged(placement=name, serving=serving_now, reason="scripted"))
    upstreams = ScriptedUpstreams(dict(scripted))

    def observe(request: Request, generation: Generation) -> RequestObserver:
        observers.append(RecordedObserver(request, wants_content=wants_content))
        return observers[-1]

    pipeline = Pipeline(
        scheduler, upstreams, pipeline_settings(config), clock=clock, observe=observe
    )
    tasks = [asyncio.create_task(scheduler.run()), asyncio.create_task(pipeline.report_progress())]
    try:
        yield Rig(
            pipeline=pipeline,
            scheduler=scheduler,
            upstreams=upstreams,
            scripted=scripted,
            observers=observers,
            accounts=accounts,
        )
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def generation(request_id: str = "r", **fields: object) -> Generation:
    given = {"model": serving.MODEL, "input": "Hello", "max_output_tokens": 100, **fields}
    return Generation(request_id=request_id, **given)  # type: ignore[arg-type]


def call(made: Generation | None = None, **fields: object) -> GenerateCall:
    given = {"caller": CALLER, "remaining_s": None, "size_bytes": 10, **fields}
    return GenerateCall(generation=made or generation(), **given)  # type: ignore[arg-type]


@dataclass
class Received:
    """What a client has, perhaps of an answer that broke off."""

    chunks: list[Chunk] = field(default_factory=list)
    finished: Finished | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for chunk in self.chunks for delta in chunk.deltas)

    @property
    def account(self) -> Finished:
        assert self.finished is not None
        return self.finished


async def receive(pipeline: Pipeline, asked: GenerateCall, received: Received) -> Received:
    """Reads an answer to its end, as a door does."""
    async with aclosing(pipeline.run(asked)) as outputs:
        async for output in outputs:
            assert received.finished is None, "output after the end"
            if isinstance(output, Finished):
                received.finished = output
            else:
                received.chunks.append(output)
    return received


async def answer(rig: Rig, asked: GenerateCall | None = None) -> Received:
    """The whole answer. Raises as `Pipeline.run`."""
    return await receive(rig.pipeline, asked or call(), Received())


@dataclass
class Client:
    """A client that reads in a task of its own."""

    received: Received
    task: asyncio.Task[Received]

    async def leave(self) -> None:
        """Goes away, and waits until that has been noticed."""
        self.task.cancel()
        await asyncio.wait({self.task})
        assert self.task.cancelled()


async def client(rig: Rig, asked: GenerateCall | None = None) -> Client:
    """A client that has come as far as it does without time."""
    received = Received()
    task = asyncio.create_task(receive(rig.pipeline, asked or call(), received))
    await settle()
    return Client(received, task)


async def settle() -> None:
    """Until everything that needs no time has happened."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


def use_prices(rig: Rig) -> None:
    """Gives every placement a price of 1 nano-USD a token, from now on."""
    rig.scheduler.use_rates(RateSnapshot(rates=dict.fromkeys(rig.scripted, RATES)))


def evict(rig: Rig, attempt: int = 1, request_id: str = "r") -> None:
    """The scheduler takes an attempt of a request back."""
    for branch in rig.branches(f"key/{request_id}"):
        found = branch.request.request_id
        branch.deliver(Evict(request_id=found, attempt=attempt, reason="others come first"))
