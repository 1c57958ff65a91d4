"""The demo's statements: each holds for a clean run, and fails for what it is there to find."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from moegate.demo.checks import RunResult, checks
from moegate.demo.client_results import ClientResults, Outcome, RequestResult
from moegate.demo.cost_comparison import CostComparison
from moegate.demo.overflows import Overflows

COSTS = CostComparison(
    ours_gpu_usd=1.0, ours_remote_usd=0.0, all_remote_usd=2.0, peak_replicas=1, peak_usd=1.0
)


def ended(outcome: Outcome, **fields: object) -> RequestResult:
    made = {"outcome": outcome, "slo_class": "interactive", "sent_s": 0.0, "at_s": 1.0, **fields}
    return RequestResult(**made)  # type: ignore[arg-type]


def complete(tokens: int = 10) -> RequestResult:
    return ended(Outcome.OK_LOCAL, placement="own/a", output_tokens=tokens)


def run(*requests: RequestResult, generated: int = 10, submitted: int | None = None) -> RunResult:
    clients = ClientResults(submitted=len(requests) if submitted is None else submitted)
    for request in requests:
        clients.end(request)
    return RunResult(
        planned=len(requests),
        clients=clients,
        generated_tokens={"own/a": generated},
        left_over=0,
        killed=None,
        exit_statuses={"gateway": (0, True)},
        load_s=1.0,
        usd_per_hour=1.0,
        costs=COSTS,
        overflows=Overflows(phases=(), reasons=Counter()),
    )


def failed_statements(result: RunResult) -> list[str]:
    return [check.statement for check in checks(result) if not check.holds]


def test_every_statement_holds_for_a_clean_run() -> None:
    refused = ended(Outcome.REFUSED, code="RESOURCE_EXHAUSTED", error="full")
    assert failed_statements(run(complete(), refused)) == []


@pytest.mark.parametrize(
    ("result", "statement"),
    [
        (run(complete(), submitted=2), "every request accounted for"),
        (run(complete(), ended(Outcome.FAILED, error="protocol")), "no request failed"),
        (run(complete(), ended(Outcome.BROKEN)), "no request failed"),
        (run(complete(), ended(Outcome.REFUSED, code="UNAVAILABLE")), "no request failed"),
        (run(complete(), generated=9), "tokens agree on both sides"),
        (run(complete(), generated=11), "tokens agree on both sides"),
        (replace(run(complete()), left_over=1), "engines idle at the end"),
        (
            replace(run(complete()), exit_statuses={"gateway": (1, False)}),
            "every process ended as told",
        ),
    ],
)
def test_a_statement_fails_for_what_it_is_there_to_find(result: RunResult, statement: str) -> None:
    assert failed_statements(result) == [statement]


def test_a_stream_cut_short_has_generated_what_was_received_up_to_its_limit() -> None:
    cut = ended(Outcome.CANCELLED, deltas=3, max_output_tokens=6)
    found = [failed_statements(run(complete(), cut, generated=10 + n)) for n in (2, 3, 6, 7)]
    wrong = ["tokens agree on both sides"]
    assert found == [wrong, [], [], wrong]


def test_a_replica_killed_on_purpose_may_break_streams() -> None:
    result = run(complete(), ended(Outcome.BROKEN, deltas=3, max_output_tokens=6))
    result = replace(result, killed="own/b", generated_tokens={"own/a": 10, "own/b": 0})
    assert failed_statements(result) == []
