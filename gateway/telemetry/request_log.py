"""The line of a settled request in the JSON log."""

from __future__ import annotations

from typing import Any

import grpc

from gateway.telemetry import attributes
from gateway.telemetry.request import RequestTrail


def request_line(
    trail: RequestTrail, outcome: str, code: grpc.StatusCode, detail: str, duration_s: float
) -> dict[str, Any]:
    """Fields of the line, without unknown values and without content."""
    request = trail.request
    fields: dict[str, Any] = {
        "request_id": trail.generation.request_id,
        "tenant": request.tenant,
        "key_id": trail.key_id,
        "model": request.model,
        "slo_class": request.slo.slo_class.value,
        "outcome": outcome,
        "code": code.name,
        "attempts": trail.attempts,
        "duration_s": round(duration_s, 6),
    }
    if code is not grpc.StatusCode.OK and detail:
        fields["detail"] = detail[:500]
    if request.session_id:
        fields["session_id"] = request.session_id
    if trail.refusal is not None:
        fields["refusal"] = trail.refusal.reason.value
    if trail.last is not None:
        action, end = trail.last
        fields["placement"] = action.placement
        fields["route"] = attributes.route(action.kind)
        fields["reason"] = action.reason
        usage = end.settled.usage
        if usage is not None:
            fields["prompt_tokens"] = usage.prompt_tokens
            fields["output_tokens"] = usage.completion_tokens
            if usage.cached_tokens is not None:
                fields["cached_tokens"] = usage.cached_tokens
    # Integers, so that sums over lines are exact. They include failed attempts of the request.
    if trail.metered_nano_usd is not None:
        fields["metered_nano_usd"] = trail.metered_nano_usd
    if trail.charged_nano_usd is not None:
        fields["charged_nano_usd"] = trail.charged_nano_usd
    if trail.result is not None:
        fields["queue_s"] = round(trail.result.queue_s, 6)
        if trail.result.ttft_s is not None:
            fields["ttft_s"] = round(trail.result.ttft_s, 6)
        if trail.result.tpot_s is not None:
            fields["tpot_s"] = round(trail.result.tpot_s, 6)
    return fields
