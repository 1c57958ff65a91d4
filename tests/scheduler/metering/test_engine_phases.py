"""The engine's own seconds move cost between the phases, and never change its sum."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.engine_steps import EngineRequest
from scheduler.metering.engine_phases import EndedRun, correct_phases
from scheduler.metering.totals import UNIT, Totals

RUN = EndedRun(prefill=400, decode=600, decode_s=0.6, whole_s=1.0)


def engine(
    queued_s: float | None, prefill_s: float | None, decode_s: float | None
) -> EngineRequest:
    return EngineRequest(request_id="a", queued_s=queued_s, prefill_s=prefill_s, decode_s=decode_s)


def charged(run: EndedRun) -> Totals:
    return Totals(prefill=run.prefill * UNIT, decode=run.decode * UNIT)


@pytest.mark.parametrize(
    ("told", "decode"),
    [
        (engine(0.0, 0.2, 0.7), 700),  # the first token was seen late
        (engine(0.1, 0.3, 0.5), 500),
        (engine(0.0, 0.3, 0.6), 600),
        (engine(None, 0.2, 0.7), 600),  # it did not come so far
        (engine(0.0, None, None), 600),
        (engine(0.0, 0.1, 0.2), 600),  # of another attempt
        (engine(0.0, 0.5, 0.9), 600),
    ],
)
def test_decode_gets_the_engines_time_at_the_requests_rate(
    told: EngineRequest, decode: int
) -> None:
    totals = charged(RUN)
    assert correct_phases(totals, RUN, told) == decode - 600
    assert (totals.prefill, totals.decode) == ((1000 - decode) * UNIT, decode * UNIT)


seconds = st.none() | st.floats(0, 1e9)


@example(0, 4, sys.float_info.min, 1.0, engine(0.0, 0.0, 1.0))
@example(0, 0, sys.float_info.min, 4.0, engine(0.0, 0.0, 4.0))
@given(
    *(st.integers(0, 10**15), st.integers(0, 10**15)),
    *(st.floats(-1, 1e6), st.floats(-1, 1e6)),
    st.builds(engine, seconds, seconds, seconds),
)
def test_no_account_gets_below_zero_and_the_sum_stays(
    prefill: int, decode: int, decode_s: float, whole_s: float, told: EngineRequest
) -> None:
    run = EndedRun(prefill=prefill, decode=decode, decode_s=decode_s, whole_s=whole_s)
    totals = charged(run)
    correct_phases(totals, run, told)
    assert min(totals.prefill, totals.decode) >= 0
    assert totals.prefill + totals.decode == (prefill + decode) * UNIT
