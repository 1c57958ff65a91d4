"""Converts scheduler decisions into the responses of `Quote` and `Explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.translation.responses import KIND, duration
from moegate.v1 import inference_pb2
from scheduler.decision_record import DecisionRecord
from scheduler.decisions import Candidate
from scheduler.port import Explained

MAX_REASON_CHARACTERS = 500
"""Most characters of a reason: a request may have many fields that a placement cannot honour."""


def quote_message(
    decision: DecisionRecord, unsupported: Mapping[str, Sequence[str]]
) -> inference_pb2.QuoteResponse:
    """Lists every placement that was considered, best first. `unsupported`: fields of the request
    that a placement cannot honour, which are its reason."""
    candidates = list(map(_candidate, decision.candidates()))
    for candidate in candidates:
        if fields := unsupported.get(candidate.placement):
            candidate.reason = f"cannot honour {', '.join(fields)}"[:MAX_REASON_CHARACTERS]
    return inference_pb2.QuoteResponse(candidates=candidates)


def explain_message(request_id: str, explained: Explained) -> inference_pb2.ExplainResponse:
    """Describes the newest decision for a request."""
    decision = explained.decision
    return inference_pb2.ExplainResponse(
        request_id=request_id,
        model=decision.model,
        age=duration(explained.age_s),
        attempt=max(1, decision.attempt),
        tier=decision.tier.name.lower(),
        placement=decision.chosen or "",
        reason=decision.reason,
        prompt_tokens=decision.prompt_tokens,
        expected_output_tokens=decision.output_tokens,
        candidates=map(_candidate, decision.candidates()),
    )


def _candidate(found: Candidate) -> inference_pb2.QuoteCandidate:
    return inference_pb2.QuoteCandidate(
        placement=found.placement,
        kind=KIND[found.kind],
        chosen=found.chosen,
        ttft=None if found.ttft_s is None else duration(found.ttft_s),
        tpot=None if found.tpot_s is None else duration(found.tpot_s),
        marginal_nano_usd=found.marginal_nano_usd,
        charged_nano_usd=found.charged_nano_usd,
        reason=found.reason,
        feasible=found.feasible,
        expected_cached_tokens=found.hit_tokens,
        harmed_streams=found.violations_expected,
    )
