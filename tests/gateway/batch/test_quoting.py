"""Quotes of jobs: what they say of the whole from a sample, and what stays unknown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.batch.jobs import Form, JobDraft
from gateway.batch.port import BatchReason, BatchRefused
from gateway.batch.quotes import BatchQuote
from gateway.batch.running.quoting import SAMPLE_ITEMS, Quoter
from tests.gateway.batch.rig import CHAT, OWNER, Rig, line, lines, rig


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as found:
        yield found


async def quoted(made: Rig, content: bytes, per_s: float | None = 30.0) -> BatchQuote:
    async def free(_: str) -> float | None:
        return per_s

    info = await made.upload(content)
    quoter = Quoter(
        database=made.database,
        executions={Form.OPENAI: made.execution},
        caller_of=made.keys.get,
        bounds=lambda: made.bounds,
        free_tokens_per_s=free,
        now_us=lambda: made.now_us,
    )
    draft = JobDraft(form=Form.OPENAI, file_id=info.file_id, endpoint=CHAT)
    return await quoter.quote(OWNER, draft)


async def test_a_short_file_is_quoted_item_by_item(made: Rig) -> None:
    content = b"\n".join([line("a"), b"{", line("b", "longer text"), line("a")])
    quote = await quoted(made, content)
    size = len(line("a")) + len(line("b", "longer text"))
    assert (quote.items, quote.bad_lines, quote.sampled, quote.refused) == (2, 2, 2, 0)
    assert [fault.line for fault in quote.faults] == [2, 4]
    assert (quote.prompt_tokens, quote.output_tokens) == (20, 10)
    assert (quote.own_nano_usd, quote.remotes) == (size, {"far": 2 * size})
    assert quote.end_unix_us == made.now_us + 1_000_000  # 30 tokens at 30 a second
    assert made.execution.calls == []


async def test_a_long_file_is_quoted_by_a_sample_that_is_scaled(made: Rig) -> None:
    texts = [line(f"c{number:06}") for number in range(1000)]
    quote = await quoted(made, b"\n".join(texts))
    assert SAMPLE_ITEMS <= quote.sampled <= 2 * SAMPLE_ITEMS
    assert (quote.items, quote.prompt_tokens, quote.output_tokens) == (1000, 10_000, 5000)
    assert quote.own_nano_usd == sum(map(len, texts))  # all are as long


async def test_what_is_ahead_runs_first(made: Rig) -> None:
    job = await made.submit(lines(10))
    async with made.running():
        await made.ended(job)
    assert (await quoted(made, lines(4))).ahead == 0
    made.limit(items_in_flight=0)
    waiting = await made.submit(lines(6))
    async with made.running() as lane:
        while not (lane.jobs and lane.jobs[0].is_ready):
            await made.job(waiting)
    quote = await quoted(made, lines(4))
    assert (quote.ahead, quote.end_unix_us) == (6, made.now_us + 5_000_000)


async def test_unknown_is_unknown(made: Rig) -> None:
    assert (await quoted(made, lines(3), per_s=None)).end_unix_us is None
    refused = await quoted(made, line("a", "refuse"))
    assert (refused.refused, refused.refusal) == (1, "line 1: no")
    assert (refused.own_nano_usd, refused.remotes, refused.end_unix_us) == (None, {}, None)
    empty = await quoted(made, b"")
    assert (empty.items, empty.own_nano_usd, empty.end_unix_us) == (0, None, None)


async def test_a_key_that_was_removed_gets_no_quote(made: Rig) -> None:
    made.keys.clear()
    with pytest.raises(BatchRefused) as caught:
        await quoted(made, lines(1))
    assert caught.value.reason is BatchReason.STATE
