"""The demo's comparison of costs and its phases of overflow: sums that can be checked by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from moegate.demo.client_results import Outcome, RequestResult
from moegate.demo.cost_comparison import RemotePrice, compare_costs, peak_tokens_per_s
from moegate.demo.overflows import overflows
from scheduler.contract import SloClass
from simulation.workloads import PlannedRequest

PRICE = RemotePrice(input=Decimal(1), cached_input=Decimal("0.1"), output=Decimal(10))


def ended(outcome: Outcome = Outcome.OK_LOCAL, **fields: object) -> RequestResult:
    made = {
        "outcome": outcome,
        "slo_class": "interactive",
        "sent_s": 0.0,
        "at_s": 1.0,
        "prompt_tokens": 1000,
        "cached_tokens": 400,
        "output_tokens": 100,
        **fields,
    }
    return RequestResult(**made)  # type: ignore[arg-type]


def planned(at_s: float, output_tokens: int) -> PlannedRequest:
    return PlannedRequest(
        index=0,
        at_s=at_s,
        tenant=0,
        slo_class=SloClass.INTERACTIVE,
        prompt_tokens=10,
        prefix_tokens=0,
        output_tokens=output_tokens,
        local_only=False,
        cancel_after_tokens=None,
    )


def test_three_bills() -> None:
    complete = [ended(), ended(Outcome.OK_REMOTE, nano_usd=1_640_000)]
    found = compare_costs(
        complete=complete,
        planned=[planned(0.0, 900), planned(5.0, 1100), planned(30.0, 100)],
        price=PRICE,
        replicas=1,
        usd_per_replica_hour=3.6,
        best_tokens_per_s=150.0,
        load_s=100.0,
    )
    assert found.all_remote_usd == pytest.approx(2 * (600 + 40 + 1000) / 1e6)
    assert found.ours_gpu_usd == pytest.approx(0.1)
    assert found.ours_usd == pytest.approx(0.10164)
    # 2,000 tokens in the busiest ten seconds: two replicas of 150 tokens a second.
    assert found.peak_replicas == 2
    assert found.peak_usd == pytest.approx(0.2)


def test_a_remote_without_a_price_leaves_the_bill_unknown() -> None:
    found = compare_costs(
        complete=[ended(Outcome.OK_REMOTE)],
        planned=[planned(0.0, 1)],
        price=PRICE,
        replicas=2,
        usd_per_replica_hour=1.0,
        best_tokens_per_s=0.0,
        load_s=1.0,
    )
    assert found.ours_usd is None
    assert found.peak_replicas == 2


def test_the_peak_is_that_of_the_busiest_window() -> None:
    assert peak_tokens_per_s([planned(0.0, 100), planned(9.9, 100), planned(10.1, 300)]) == 40.0
    assert peak_tokens_per_s([]) == 0.0


def test_phases_of_overflow() -> None:
    far = [ended(Outcome.OK_REMOTE, sent_s=at_s, reason="own servers saturated; why: 3")
           for at_s in (12.0, 10.0, 30.0)]  # fmt: skip
    found = overflows([ended(), *far], start_s=5.0)
    assert [(p.from_s, p.to_s, p.requests) for p in found.phases] == [(5, 7, 2), (25, 25, 1)]
    assert found.reasons == {"own servers saturated": 3}
