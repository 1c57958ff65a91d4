"""The fit of KV transfers between the engines of a disaggregated replica."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.contract import EngineReport
from scheduler.engine_steps import KvTransfers
from scheduler.step_time.kv_transfer import NO_TRANSFER, KvTransferTime
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import QWEN3_30B_H100
from scheduler.step_time.transfer_fit import TransferFit, TransferWindow, transfer_window

TRUTH = KvTransferTime(constant_s=0.004, token_s=8e-6)


def report(at_s: float, transfers: KvTransfers | None) -> EngineReport:
    return EngineReport(
        placement="a", at_s=at_s, running=0, waiting=0, kv_usage=0.0, prompt_tokens_total=0,
        generation_tokens_total=0, transfers=transfers,
    )  # fmt: skip


def totals(count: int, seconds: float, requests: int, tokens: int) -> KvTransfers:
    return KvTransfers(count=count, seconds=seconds, requests=requests, tokens=tokens)


FIRST = report(10.0, totals(2, 0.1, 2, 500))


def window(tokens: float, at_s: float, truth: KvTransferTime = TRUTH) -> TransferWindow:
    return TransferWindow(at_s=at_s, transfers=3, mean_s=truth.seconds(tokens), mean_tokens=tokens)


def test_a_window_has_the_means_of_what_ended_in_it() -> None:
    """Two workers of each engine: both transfers of a request run at the same time."""
    seen = transfer_window(FIRST, report(11.0, totals(10, 0.5, 6, 8500)))
    assert seen is not None
    assert (seen.transfers, seen.mean_tokens) == (8, 2000)
    assert seen.mean_s == pytest.approx(0.05)


@pytest.mark.parametrize(
    "later",
    [
        report(11.0, None),
        report(11.0, totals(2, 0.1, 2, 500)),
        report(11.0, totals(4, 0.2, 2, 500)),  # their requests have not answered yet
        report(11.0, totals(1, 0.05, 9, 900)),  # the engine has restarted
        report(11.0, totals(4, 1e9, 4, 900)),
        report(40.0, totals(4, 0.2, 4, 900)),
    ],
)
def test_what_is_unknown_absurd_or_nothing_gives_no_window(later: EngineReport) -> None:
    assert transfer_window(FIRST, later) is None
    assert transfer_window(replace(FIRST, transfers=None), later) is None


def test_both_terms_are_learnt_from_prompts_of_any_length() -> None:
    fit = TransferFit()
    assert fit.time is NO_TRANSFER
    for number, tokens in enumerate((100, 4000, 900, 16_000, 300, 8000)):
        fit.observe(window(tokens, float(number)))
    for tokens in (0, 50, 1000, 30_000):
        assert fit.time.seconds(tokens) == pytest.approx(TRUTH.seconds(tokens), rel=0.15, abs=5e-4)


def test_of_prompts_that_are_alike_nothing_is_taken_for_constant() -> None:
    fit = TransferFit()
    for number in range(5):
        fit.observe(window(2000, float(number)))
    assert fit.time.seconds(2000) == pytest.approx(TRUTH.seconds(2000), rel=0.05)
    assert fit.time.constant_s < 0.5 * TRUTH.seconds(2000)


def test_a_network_that_has_become_slower_is_followed() -> None:
    fit = TransferFit()
    for number in range(60):
        fit.observe(window(1000 + 100 * (number % 7), float(number)))
    slower = KvTransferTime(0.03, 5e-5)
    for number in range(60, 660):
        fit.observe(window(1000 + 100 * (number % 7), float(number), slower))
    assert fit.time.seconds(1300) == pytest.approx(slower.seconds(1300), rel=0.1)


@given(
    st.lists(
        st.tuples(st.floats(1e-6, 600.0), st.floats(1.0, 1e6), st.floats(0.0, 100.0)),
        min_size=1,
        max_size=20,
    )
)
def test_no_transfer_takes_negative_time(seen: list[tuple[float, float, float]]) -> None:
    fit, at_s = TransferFit(), 0.0
    for mean_s, tokens, passed_s in seen:
        at_s += passed_s
        fit.observe(TransferWindow(at_s=at_s, transfers=1, mean_s=mean_s, mean_tokens=tokens))
        assert fit.time.constant_s >= 0.0
        assert fit.time.token_s >= 0.0
        assert fit.time.seconds(1e6) < float("inf")


def test_the_step_model_has_it_whatever_the_fit_of_the_steps_is() -> None:
    fit = StepFit(QWEN3_30B_H100)
    version = fit.version
    fit.observe_transfers(window(2000, 1.0))
    assert fit.version > version
    assert fit.model.transfer.seconds(2000) == pytest.approx(TRUTH.seconds(2000), rel=0.05)
    assert fit.model.decode_step_s(4, 0) == QWEN3_30B_H100.decode_step_s(4, 0)
