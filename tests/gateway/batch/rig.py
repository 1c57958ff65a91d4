"""A batch lane on a real database, whose items are run by a script in place of the pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.accounting.ledger.append import append, transactional_append
from gateway.accounting.ledger.database import Database, Tx
from gateway.accounting.ledger.ledger import Ledger
from gateway.accounting.ledger.rows import pending_row
from gateway.accounting.ledger.sqlite import SqliteDatabase
from gateway.auth.authenticator import Caller
from gateway.batch.files import Chunks, FileDraft, FileInfo, FileKind
from gateway.batch.intake import ItemHead, openai_line
from gateway.batch.jobs import Form, Item, Job, JobDraft, JobTokens, StoredResult
from gateway.batch.port import Owner, ResultQuery
from gateway.batch.quotes import ItemQuote, ItemRefused
from gateway.batch.running.execution import ItemAnswer, ItemCall
from gateway.batch.running.item_experts import ItemExperts
from gateway.batch.running.ordering import Order
from gateway.batch.running.parts import RunnerParts
from gateway.batch.running.runner import BatchRunner
from gateway.batch.store.desk import BatchDesk
from gateway.config.batch import BatchConfig
from gateway.config.gateway import KeyRole
from scheduler.budgets.budget import BudgetAccount
from scheduler.limits.rate_limit import NO_RATE_LIMITS
from scheduler.prefix.expert_affinity import ExpertTable
from tests.ledgers import settled

T = TypeVar("T")
OWNER = Owner(tenant="team", key_id="key")
CHAT = "/v1/chat/completions"
CALLER = Caller(
    tenant="team",
    key_id="key",
    role=KeyRole.CALLER,
    weight=1.0,
    models=None,
    slo_classes=(),
    remote_classes=None,
    limits=NO_RATE_LIMITS,
    message_bytes=1 << 20,
    body_bytes=1 << 20,
)


def line(name: str, text: str = "hello", model: str = "moe", **other: object) -> bytes:
    """A line of a batch file."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    head: dict[str, object] = {"custom_id": name, "method": "POST", "url": CHAT, "body": body}
    return json.dumps(head | other).encode()


def lines(count: int) -> bytes:
    """A file of so many good lines."""
    return b"".join(line(f"c{number}") + b"\n" for number in range(1, count + 1))


Script = Callable[[ItemCall], Awaitable[ItemAnswer]]


async def answered(call: ItemCall) -> ItemAnswer:
    """An item that succeeds at once."""
    call.on_start()
    tokens = JobTokens(prompt=10, completion=5)
    content = call.request_id.encode()
    return ItemAnswer(
        is_ok=True, content=content, charged_nano_usd=100, has_run=True, tokens=tokens
    )


@dataclass(slots=True)
class ScriptedExecution:
    """Runs items by a script. `calls`: every run, in order; `most`: most of them at once."""

    script: Script = answered
    calls: list[ItemCall] = field(default_factory=list)
    now: int = 0
    most: int = 0

    def read(self, content: bytes, endpoint: str) -> ItemHead:
        """See `Execution`."""
        return openai_line(content, endpoint)

    async def run(self, call: ItemCall) -> ItemAnswer:
        """See `Execution`."""
        self.calls.append(call)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self.script(call)
        finally:
            self.now -= 1

    async def quote(self, call: ItemCall) -> ItemQuote:
        """See `Execution`. An item costs as many nano-USD as its line has bytes."""
        if b"refuse" in call.content:
            raise ItemRefused("no")
        size = len(call.content)
        return ItemQuote(
            prompt_tokens=10, output_tokens=5.0, own_nano_usd=size, remotes={"far": 2 * size}
        )

    def failed(self, job_id: str, item: Item, code: str, message: str) -> bytes:
        """See `Execution`."""
        return f"{code}: {message}".encode()


def in_file_order(beginnings: Sequence[bytes], table: ExpertTable | None) -> Sequence[int]:
    """Items start as they stand in the file."""
    return range(len(beginnings))


@dataclass(slots=True)
class Rig:
    """A lane. `now_us`: its wall clock; `bounds`: in force; `keys`: those that are configured;
    `opening`: see `RunnerParts`."""

    database: Database
    ledger: Ledger
    execution: ScriptedExecution = field(default_factory=ScriptedExecution)
    now_us: int = 1_800_000_000_000_000
    bounds: BatchConfig = field(default_factory=BatchConfig)
    keys: dict[str, Caller] = field(default_factory=lambda: {"key": CALLER})
    order: Order = in_file_order
    experts: ItemExperts = field(default_factory=ItemExperts)
    opening: Callable[[], Awaitable[object]] | None = None
    desk: BatchDesk = field(init=False)

    def __post_init__(self) -> None:
        self.desk = BatchDesk(
            self.database,
            lambda: self.bounds,
            now_us=lambda: self.now_us,
            on_change=self._notify,
        )

    runners: list[BatchRunner] = field(default_factory=list)

    def _notify(self) -> None:
        for runner in self.runners:
            runner.notify()

    def limit(self, **bounds: object) -> None:
        """Changes bounds."""
        self.bounds = msgspec.structs.replace(self.bounds, **bounds)

    async def upload(self, content: bytes, owner: Owner = OWNER) -> FileInfo:
        """Uploads a file of lines."""
        draft = FileDraft(kind=FileKind.LINES, purpose="batch", filename="in.jsonl")
        info = await self.desk.create_file(owner, draft)
        chunks = Chunks()
        for number, chunk in [*chunks.add(content), *chunks.end()]:
            await self.desk.write_chunk(owner, info.file_id, number, chunk)
        return await self.desk.finish_file(owner, info.file_id, "batch", "in.jsonl", None)

    async def submit(self, content: bytes, owner: Owner = OWNER, **draft: object) -> Job:
        """Uploads a file and makes a job of it."""
        info = await self.upload(content, owner)
        made = JobDraft(form=Form.OPENAI, file_id=info.file_id, endpoint=CHAT)
        return await self.desk.submit(owner, msgspec.structs.replace(made, **draft))

    def runner(self, name: str = "gw", *, owns_database: bool = False) -> BatchRunner:
        """A runner, which is not started."""
        return BatchRunner(
            RunnerParts(
                name=name,
                epoch="epoch",
                database=self.database,
                write=self.write,
                accounts_of=no_accounts,
                executions={Form.OPENAI: self.execution},
                caller_of=self.keys.get,
                bounds=lambda: self.bounds,
                standard_ttft_s=lambda: 5.0,
                clock=asyncio.get_running_loop().time,
                now_us=lambda: self.now_us,
                owns_database=owns_database,
                order=self.order,
                experts=self.experts,
                opening=self.opening,
            )
        )

    async def write(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """As `Accounting.write`."""
        return await self.ledger.after_rows(transaction, 10.0)

    @contextlib.asynccontextmanager
    async def running(self, name: str = "gw") -> AsyncIterator[BatchRunner]:
        """A runner that runs. Leaving the context stops it."""
        runner = self.runner(name)
        self.runners.append(runner)
        task = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            self.runners.remove(runner)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def charge(self, request_id: str, nano_usd: int = 100) -> None:
        """Adds a row to the ledger, as a settled attempt does."""
        row = settled(f"key/{request_id}", charged=nano_usd, ended_unix_s=self.now_us / 1e6)
        self.ledger.add(pending_row(row, None))

    async def charge_elsewhere(self, request_id: str, nano_usd: int = 100) -> None:
        """The same, by another process at the database."""
        row = settled(f"key/{request_id}", charged=nano_usd, ended_unix_s=self.now_us / 1e6)
        epoch = f"elsewhere-{request_id}"
        await self.database.write(lambda tx: append(tx, epoch, 0, [pending_row(row, None)]))

    async def corrected(self) -> int:
        """Sum of the corrections of the ledger."""

        async def total(tx: Tx) -> Sequence[tuple[int, ...]]:
            return await tx.rows(
                "SELECT COALESCE(CAST(SUM(charged_nano_usd) AS BIGINT), 0) FROM attempt"
                " WHERE state = 'correction'"
            )

        return int((await self.database.read(total))[0][0])

    async def job(self, job: Job) -> Job:
        """The job as it stands now."""
        return await self.desk.job(OWNER, job.job_id)

    async def ended(self, job: Job) -> Job:
        """The job once it has ended."""
        async with asyncio.timeout(60.0):
            while not (now := await self.job(job)).has_ended:
                await asyncio.sleep(0.02)
        return now

    async def results(self, job: Job, **query: object) -> list[StoredResult]:
        """All results of a job that has ended."""
        asked = msgspec.structs.replace(ResultQuery(job_id=job.job_id), **query)
        found: list[StoredResult] = []
        while True:
            page = await self.desk.results(OWNER, asked)
            found += page.results
            if page.next_cursor is None:
                return found
            asked = msgspec.structs.replace(asked, cursor=page.next_cursor)

    async def charged(self) -> int:
        """Sum of all charges of the ledger, its corrections included."""

        async def total(tx: Tx) -> Sequence[tuple[int, ...]]:
            return await tx.rows(
                "SELECT COALESCE(CAST(SUM(charged_nano_usd) AS BIGINT), 0) FROM attempt"
            )

        return int((await self.write(total))[0][0])


def no_accounts(*_: object) -> Sequence[BudgetAccount]:
    """No budget counts anything."""
    return ()


@contextlib.asynccontextmanager
async def rig(path: Path) -> AsyncIterator[Rig]:
    """A lane on a SQLite file."""
    database = SqliteDatabase(path / "ledger.sqlite3")
    try:
        async with lane(database) as made:
            yield made
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def lane(database: Database) -> AsyncIterator[Rig]:
    """A lane on a database."""
    ledger = Ledger(database, transactional_append(database, "epoch"), 10_000, None)
    writing = asyncio.create_task(ledger.run())
    try:
        yield Rig(database, ledger)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await ledger.flush()
