"""What a flight keeps of an answer that may have to be gone on with."""

from __future__ import annotations

import pytest

from gateway.domain.generation import ChoiceDelta, Chunk, FinishReason, Generation
from gateway.pipeline import flight as module
from gateway.pipeline.flight import Flight
from gateway.pipeline.trail import UNOBSERVED
from scheduler.metering.rate_snapshot import rate_snapshot
from tests.scheduler.requests_made import request


def flight() -> Flight:
    generation = Generation(request_id="r", model="moe", input="Hello", max_output_tokens=9)
    return Flight(
        request=request("r"),
        generation=generation,
        book=rate_snapshot([]),
        trail=UNOBSERVED,
        hold=False,
        text=[],
    )


def piece(text: str, finish_reason: FinishReason | None = None) -> Chunk:
    delta = ChoiceDelta(index=0, text=text, finish_reason=finish_reason)
    return Chunk(deltas=(delta,), output_tokens=1)


def test_plain_text_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_CHARS", 10)
    kept = flight()
    for text in ("12345", "6789", "0"):
        kept.handed_over(piece(text))
    assert kept.text == ["12345", "6789", "0"]
    kept.handed_over(piece("1"))
    assert kept.text is None
    kept.handed_over(piece("2"))
    assert kept.text is None


def test_what_is_over_is_not_gone_on_with() -> None:
    kept = flight()
    kept.handed_over(piece("all of it", FinishReason.STOP))
    assert kept.text is None
