"""What an active request keeps of an answer that may have to be continued."""

from __future__ import annotations

import asyncio

import pytest

from gateway.domain.generation import ChoiceDelta, Chunk, FinishReason, Generation
from gateway.pipeline import active_request as module
from gateway.pipeline.active_request import ActiveRequest, Branch
from gateway.pipeline.observer import UNOBSERVED
from scheduler.port import BranchKind, Settled
from tests.scheduler.metering.test_throughput import ENDED
from tests.scheduler.requests_made import request


def active() -> ActiveRequest:
    generation = Generation(request_id="r", model="moe", input="Hello", max_output_tokens=9)
    return ActiveRequest(
        request=request("r"),
        generation=generation,
        observer=UNOBSERVED,
        whole_answer=False,
        text=[],
    )


def piece(text: str, finish_reason: FinishReason | None = None) -> Chunk:
    delta = ChoiceDelta(index=0, text=text, finish_reason=finish_reason)
    return Chunk(deltas=(delta,), output_tokens=1)


def test_plain_text_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_CHARS", 10)
    kept = active()
    for text in ("12345", "6789", "0"):
        kept.record_output(piece(text))
    assert kept.text == ["12345", "6789", "0"]
    kept.record_output(piece("1"))
    assert kept.text is None
    kept.record_output(piece("2"))
    assert kept.text is None


def test_what_is_over_is_not_continued() -> None:
    kept = active()
    kept.record_output(piece("all of it", FinishReason.STOP))
    assert kept.text is None


async def test_an_answer_waits_for_the_account_that_the_scheduler_settles() -> None:
    one = Branch(
        active=active(),
        kind=BranchKind.ORIGINAL,
        request=request("r"),
        generation=active().generation,
        decision=asyncio.get_running_loop().create_future(),
    )
    waiting = asyncio.create_task(one.settlement())
    await asyncio.sleep(0)
    assert not waiting.done()
    one.deliver(Settled(attempt=ENDED))
    await waiting
    assert one.settled is ENDED
    await one.settlement()  # once it is there, there is nothing to wait for
