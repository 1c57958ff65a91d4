"""A scheduler behind its port for tests: no sockets, no files, a clock that the test moves."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from gateway.accounting.budgets import Budgets
from gateway.accounting.ledger.caller_reads import CallerReads
from gateway.accounting.ledger.database import Database, LedgerUnavailable, Tx
from gateway.accounting.ledger.leases import Owner
from gateway.accounting.ledger.ledger import Ledger
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from gateway.accounting.prices.catalog import Prices
from gateway.config.gateway import GatewayConfig, PoolConfig, RemoteConfig
from gateway.config.limits import LimitsConfig
from gateway.config.price_rows import CatalogFile
from gateway.config.remote import FailuresConfig, HedgingConfig
from gateway.fleet.placements import placements_of
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from gateway.scheduling.key_accounts import KeyAccounts
from gateway.scheduling.metering import Metering
from gateway.scheduling.settings import SchedulingSettings, scheduling_settings
from scheduler.budgets.budget import Budget
from scheduler.contract import AttemptOutcome, Fault, ServingChanged, Usage
from scheduler.limits.rate_limit import NO_RATE_LIMITS, RateLimits
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import (
    Answer,
    AttemptEnd,
    BranchKind,
    RequestEnded,
    Settled,
    Started,
    Submission,
    Waiting,
)
from tests import serving
from tests.ledgers import make_tables
from tests.scheduler.requests_made import request

T = TypeVar("T")
NOW_S = 100.0
"""When a test begins."""
UNIX_NS = (1_790_812_800 - 2) * 1_000_000_000
"""The same by the wall clock: two seconds before the first of October 2026, UTC."""
EU = frozenset({"eu"})
USAGE = Usage(prompt_tokens=100, completion_tokens=10, cached_tokens=0)
ONE_USD = """
showback:
  - id: one
    pool: own
    usd_per_mtok: {input: "1", cached_input: "1", output: "1"}
    valid_from: "2026-01-01"
    source: test
    checked_at: "2026-01-01"
"""
"""1000 nano-USD a token."""


@dataclass(slots=True)
class Clock:
    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


class MemoryLedger:
    """Runs the transactions of leases in a database in memory, once `answers` is set. `fails`: they
    fail; `unanswered`: they are committed, and nobody hears of it."""

    def __init__(self) -> None:
        self.fails = self.unanswered = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.waiting = 0
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        make_tables(self.connection)

    async def after_rows(self, transaction: Callable[[Tx], Awaitable[T]], _: float) -> T:
        """See `Ledger`."""
        self.waiting += 1
        try:
            await self.answers.wait()
        finally:
            self.waiting -= 1
        if self.fails:
            raise LedgerUnavailable("as told")
        result = run_now(transaction(SqliteTx(self.connection)))
        if self.unanswered:
            raise LedgerUnavailable("as told")
        return result

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """See `Database`."""
        return run_now(transaction(SqliteTx(self.connection)))

    def lost(self, _: str) -> int:
        """See `Ledger`."""
        return 0


@dataclass(slots=True)
class Hosted:
    """A scheduler with what it was made from, and the accounts that it settled."""

    local: InProcessScheduler
    clock: Clock
    metering: Metering
    budgets: Budgets
    ledger: MemoryLedger
    targets: dict[str, tuple[str, str]]
    accounts: list[SettledAttempt] = field(default_factory=list)

    def serve(self, *names: str, serving: bool = True) -> None:
        """Placements enter service, or leave it."""
        for name in names:
            self.local.report(ServingChanged(placement=name, serving=serving, reason="test"))

    async def submit(self, made: Submission) -> list[Answer]:
        """Submits a branch; its answers, which grow."""
        answers: list[Answer] = []
        await self.local.submit(made, answers.append)
        return answers

    def end(self, request_id: str, attempt: int = 1, **fields: Any) -> None:
        """An attempt ends."""
        self.local.send(attempt_end(request_id, attempt, **fields))

    def ended(self, request_id: str, *, used_tokens: int = 0, keep_key: bool = False) -> None:
        """The client's request is over."""
        message = RequestEnded(
            request_id=request_id, used_tokens=used_tokens, keep_idempotency_key=keep_key
        )
        self.local.send(message)

    @property
    def reads(self) -> CallerReads:
        """Reads of the ledger."""
        return CallerReads(cast(Database, self.ledger))

    def reserved(self) -> int:
        """What running requests hold of all budgets, nano-USD."""
        return sum(lease.reserved_nano_usd for lease in self.budgets.book.leases)

    def __repr__(self) -> str:
        return repr(self.local.core)


def hosted(
    settings: SchedulingSettings,
    *,
    budgets: Iterable[Budget] = (),
    clock: Clock | None = None,
    sink: Callable[[SettledAttempt], None] = lambda account: None,
) -> Hosted:
    """A scheduler whose placements are not in service yet. `sink`: gets each account, too."""
    clock, ledger = clock or Clock(), MemoryLedger()
    metering = Metering(clock, lambda: UNIX_NS)
    book = Budgets(cast(Ledger, ledger), Owner("gateway", "now"))
    book.configure(budgets)
    accounts: list[SettledAttempt] = []

    def settle(account: SettledAttempt) -> None:
        book.settle(account)
        accounts.append(account)
        sink(account)

    targets = {p.name: (f"http://{p.name}", "m") for p in settings.placements}
    local = InProcessScheduler(
        settings,
        clock=clock,
        metering=metering,
        budgets=book,
        accounts=KeyAccounts(book, CallerReads(cast(Database, ledger))),
        targets=targets,
        sinks=(settle,),
    )
    return Hosted(local, clock, metering, book, ledger, targets, accounts)


def running(
    settings: SchedulingSettings,
    *,
    budgets: Iterable[Budget] = (),
    clock: Clock | None = None,
    sink: Callable[[SettledAttempt], None] = lambda account: None,
) -> Hosted:
    """A scheduler whose placements are all in service."""
    made = hosted(settings, budgets=budgets, clock=clock, sink=sink)
    made.serve(*(placement.name for placement in settings.placements))
    return made


def settings_of(
    config: GatewayConfig, *, catalog: str = "", failure_domains: bool = False
) -> SchedulingSettings:
    """`catalog`: a price catalog's text."""
    placements = tuple(placements_of(config, Path()))
    if failure_domains:
        placements = tuple(replace(p, failure_domain=p.pool or "far") for p in placements)
    made = scheduling_settings(config, Path(), placements)
    if not catalog:
        return made
    prices = Prices([msgspec.yaml.decode(catalog, type=CatalogFile)])
    return replace(made, prices=prices)


def config(
    *,
    replicas: int = 1,
    slots: int = 1,
    pools: Sequence[PoolConfig] | None = None,
    remotes: Sequence[RemoteConfig] = (),
    limits: LimitsConfig | None = None,
    hedges: float | None = None,
) -> GatewayConfig:
    """A pool `own` with the replicas a, b ... of so many slots each. `hedges`: share of the
    requests that may be hedged."""
    if pools is None:
        urls = [f"http://own-{i}" for i in range(replicas)]
        pools = [serving.pool(urls, max_num_seqs=slots)]
    made = serving.config(pools=pools, remotes=remotes, limits=limits)
    if hedges is not None:
        hedging = HedgingConfig(after_s=1.0, share=hedges)
        made = msgspec.structs.replace(made, failures=FailuresConfig(hedging=hedging))
    return made


def submission(
    request_id: str,
    kind: BranchKind = BranchKind.ORIGINAL,
    *,
    original_id: str = "",
    beside: str = "",
    idempotency_key: str = "",
    key_limits: RateLimits = NO_RATE_LIMITS,
    prompt_tokens_bound: int = 100,
    max_cost_nano_usd: int | None = None,
    wants_decision: bool = False,
    **facts: Any,
) -> Submission:
    """A branch of a request of key `k`."""
    facts = {"arrival_s": NOW_S, "key_id": "k", "ttft_s": 60.0, "tpot_s": 5.0, **facts}
    return Submission(
        request=request(request_id, **facts),
        original_id=original_id or request_id,
        kind=kind,
        beside=beside,
        idempotency_key=idempotency_key,
        key_limits=key_limits,
        prompt_tokens_bound=prompt_tokens_bound,
        max_cost_nano_usd=max_cost_nano_usd,
        wants_decision=wants_decision,
    )


def attempt_end(
    request_id: str,
    attempt: int = 1,
    outcome: AttemptOutcome = AttemptOutcome.OK,
    *,
    usage: Usage | None = USAGE,
    abandoned: bool = False,
    fault: Fault = Fault.NONE,
) -> AttemptEnd:
    good = outcome is AttemptOutcome.OK
    return AttemptEnd(
        request_id=request_id,
        attempt=attempt,
        outcome=outcome,
        detail="test",
        usage=usage if good else None,
        reported=good,
        committed=good,
        may_be_continued=False,
        abandoned=abandoned,
        duration_s=1.0,
        first_token_s=0.5 if good else None,
        ttft_s=0.5 if good else None,
        tpot_s=0.01 if good else None,
        output_tokens=10 if good else 0,
        fault=fault,
        retry_after_s=None,
    )


def kinds(answers: Sequence[Answer]) -> list[str]:
    """The answers in short: where, which reason, which attempt was settled."""
    shown = []
    for answer in answers:
        match answer:
            case Started():
                shown.append(f"start {answer.start.attempt} at {answer.start.placement}")
            case Settled():
                shown.append(f"settled {answer.attempt.attempt}")
            case Waiting():
                shown.append(f"queued {answer.position}")
            case _:
                shown.append(str(getattr(answer, "reason", type(answer).__name__)))
    return shown
