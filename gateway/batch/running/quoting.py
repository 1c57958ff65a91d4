"""Quotes jobs: reads the file of a job as it would be read, and lets the scheduler quote some of
its items.

Of a long file `SAMPLE_ITEMS` items and up to twice as many are quoted, evenly spaced; sums are
scaled from them. No item runs, and nothing is written.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from gateway.accounting.ledger.database import Database, Tx
from gateway.auth.authenticator import Caller
from gateway.batch.intake import BadLine, Cut, FrameCutter, Intake, LineCutter
from gateway.batch.jobs import Form, Item, JobDraft, LineFault
from gateway.batch.port import BatchReason, BatchRefused, Owner
from gateway.batch.quotes import BatchQuote, ItemQuote, ItemRefused
from gateway.batch.running.execution import Execution, ItemCall
from gateway.batch.store.files import find_file, read_bytes, read_chunk
from gateway.config.batch import BatchConfig
from scheduler.contract import SloClass

SAMPLE_ITEMS = 50
SLICE_LINES = 50
"""Lines that are read before others have their turn."""
_AHEAD = (
    "SELECT COUNT(*) FROM batch_job JOIN batch_item ON batch_item.job_id = batch_job.job_id"
    " WHERE batch_job.ended_unix_us IS NULL AND batch_item.state < 2 AND batch_item.model = $1"
)
FreeTokensPerS = Callable[[str], Awaitable[float | None]]
"""Tokens per second that own servers of a model have for batch work; None: unknown."""


@dataclass(slots=True)
class _Read:
    """What was read of a file. `sample`: every `stride`-th item."""

    intake: Intake
    by_model: Counter[str] = field(default_factory=Counter)
    sample: list[Item] = field(default_factory=list)
    stride: int = 1

    def add(self, item: Item) -> None:
        self.by_model[item.model] += 1
        if (self.intake.items - 1) % self.stride == 0:
            self.sample.append(item)
            if len(self.sample) > 2 * SAMPLE_ITEMS:
                self.sample = self.sample[::2]
                self.stride *= 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoter:
    """Quotes jobs of any tenant. See `RunnerParts` for what it works with."""

    database: Database
    executions: Mapping[Form, Execution]
    caller_of: Callable[[str], Caller | None]
    bounds: Callable[[], BatchConfig]
    free_tokens_per_s: FreeTokensPerS
    now_us: Callable[[], int]

    async def quote(self, owner: Owner, draft: JobDraft) -> BatchQuote:
        """See `BatchPort`."""
        caller = self.caller_of(owner.key_id)
        if caller is None:
            raise BatchRefused(BatchReason.STATE, f"key {owner.key_id} is not configured any more")
        found = await self._read(owner, draft)
        quotes: dict[str, list[ItemQuote]] = {}
        refusals: list[str] = []
        for item in found.sample:
            try:
                quote = await self._quote(item, draft, caller)
            except ItemRefused as refused:
                refusals.append(f"line {item.number}: {refused}")
            else:
                quotes.setdefault(item.model, []).append(quote)
        ahead, end_us = await self._end(found.by_model, quotes)
        sums = [
            (quotes[model], count) for model, count in found.by_model.items() if model in quotes
        ]
        whole = len(sums) == len(found.by_model)
        own = [_scaled([each.own_nano_usd for each in part], count) for part, count in sums]
        names = {name for part, _ in sums for each in part for name in each.remotes}
        remotes: dict[str, int] = {}
        for name in sorted(names) if whole else ():
            costs = [_scaled([each.remotes.get(name) for each in part], n) for part, n in sums]
            if (total := _sum(costs)) is not None:
                remotes[name] = total
        intake = found.intake
        return BatchQuote(
            items=intake.items,
            bad_lines=intake.bad,
            faults=tuple(intake.faults),
            sampled=len(found.sample),
            refused=len(refusals),
            refusal=refusals[0] if refusals else "",
            prompt_tokens=sum(_scaled([q.prompt_tokens for q in part], n) or 0 for part, n in sums),
            output_tokens=sum(
                _scaled([round(q.output_tokens) for q in part], n) or 0 for part, n in sums
            ),
            own_nano_usd=_sum(own) if whole and sums else None,
            remotes=remotes,
            ahead=ahead,
            end_unix_us=end_us if whole and sums else None,
        )

    async def _read(self, owner: Owner, draft: JobDraft) -> _Read:
        bounds, execution = self.bounds(), self.executions[draft.form]
        info = await self.database.read(
            lambda tx: find_file(tx, owner.tenant, draft.file_id, "input_file_id")
        )
        if not info.is_complete or info.job_id:
            text = f"file {draft.file_id} holds no requests: upload one with purpose batch"
            raise BatchRefused(BatchReason.INVALID, text, "input_file_id")
        found = _Read(Intake(bounds.job_items))
        cutter = FrameCutter() if draft.form is Form.GRPC else LineCutter(bounds.line_bytes)
        number = 0
        while (chunk := await self._chunk(draft.file_id, number)) is not None:
            number += 1
            await _take(cutter.add(chunk), found, draft, execution)
        await _take(cutter.end(), found, draft, execution)
        return found

    async def _chunk(self, file_id: str, number: int) -> bytes | None:
        return await self.database.read(lambda tx: read_chunk(tx, file_id, number))

    async def _quote(self, item: Item, draft: JobDraft, caller: Caller) -> ItemQuote:
        content = await self.database.read(
            lambda tx: read_bytes(tx, draft.file_id, item.start_byte, item.size_bytes)
        )
        deadline_s = self.bounds().deadline_s if draft.deadline_s is None else draft.deadline_s
        return await self.executions[draft.form].quote(
            ItemCall(
                job_id="",
                request_id=f"quote-{draft.file_id}-{item.number}",
                item=item,
                content=content,
                endpoint=draft.endpoint,
                caller=caller,
                terms=draft.terms,
                remaining_s=deadline_s,
                slo_class=SloClass.BATCH,
                max_cost_nano_usd=None,
                on_start=lambda: None,
            )
        )

    async def _end(
        self, by_model: Mapping[str, int], quotes: Mapping[str, list[ItemQuote]]
    ) -> tuple[int, int | None]:
        """Items ahead, and the Unix microsecond of the end; None: unknown."""
        waiting, longest_s = 0, 0.0
        known = True
        for model, count in by_model.items():
            ahead = await self.database.read(partial(_ahead, model))
            waiting += ahead
            per_s = await self.free_tokens_per_s(model)
            if model not in quotes or per_s is None:
                known = False
                continue
            part = quotes[model]
            each = sum(q.prompt_tokens + q.output_tokens for q in part) / len(part)
            longest_s = max(longest_s, (count + ahead) * each / per_s)
        return waiting, self.now_us() + round(longest_s * 1e6) if known else None


async def _take(cuts: Iterable[Cut], found: _Read, draft: JobDraft, execution: Execution) -> None:
    for count, cut in enumerate(cuts, 1):
        if cut.content is None:
            text = f"{cut.size_bytes} bytes: the line is too long"
            found.intake.refuse(cut.number, LineFault(code="line_too_long", message=text))
            continue
        try:
            head = execution.read(cut.content, draft.endpoint)
        except BadLine as error:
            found.intake.refuse(cut.number, error.fault)
        else:
            item = found.intake.item(cut, head)
            if item is not None:
                found.add(item)
        if count % SLICE_LINES == 0:
            await asyncio.sleep(0)


async def _ahead(model: str, tx: Tx) -> int:
    [(count,)] = await tx.rows(_AHEAD, model)
    return int(count)


def _scaled(amounts: list[int | None] | list[int], items: int) -> int | None:
    """The sum of a sample, scaled to all items; None: one is unknown."""
    total = _sum(amounts)
    return None if total is None else total * items // len(amounts)


def _sum(amounts: Iterable[int | None]) -> int | None:
    total = 0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total
