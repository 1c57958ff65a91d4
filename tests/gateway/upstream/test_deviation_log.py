"""Lines about answers that do not keep to their protocol are few."""

from __future__ import annotations

import logging

import pytest

from gateway.domain.generation import Deviation, DeviationKind
from gateway.upstream.deviation_log import MAX_KNOWN, REPEAT_S, DeviationLog


def test_one_line_a_minute_for_each_kind_and_placement(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    lines = DeviationLog(lambda: now[0])
    odd = Deviation(kind=DeviationKind.FINISH_WORD, detail="flux")
    zero = Deviation(kind=DeviationKind.USAGE_ZERO)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            lines.record("far", (odd, zero))
        lines.record("near", (odd,))
        assert len(caplog.messages) == 3
        assert "flux" in caplog.messages[0]
        now[0] = REPEAT_S
        lines.record("far", (odd,))
    assert "2 times more" in caplog.messages[-1]


def test_it_keeps_few_kinds() -> None:
    lines = DeviationLog(lambda: 0.0)
    for i in range(2 * MAX_KNOWN):
        lines.record(f"p{i}", (Deviation(kind=DeviationKind.USAGE_ZERO),))
    assert len(lines._told) <= MAX_KNOWN
