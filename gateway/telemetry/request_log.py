"""The line of a settled request in the JSON log."""

from __future__ import annotations

from typing import Any

from gateway.telemetry import attributes
from gateway.telemetry.request_telemetry import RequestTelemetry


def request_line(
    observed: RequestTelemetry, code: str, detail: str, duration_s: float
) -> dict[str, Any]:
    """Fields of the line; what is unknown is left out, and no content is in it."""
    request = observed.request
    fields: dict[str, Any] = {
        "request_id": observed.generation.request_id,
        "tenant": request.tenant,
        "key_id": observed.key_id,
        "model": request.model,
        "slo_class": request.slo.slo_class.value,
        "outcome": observed.outcome.value,
        "code": code,
        "attempts": observed.attempts,
        "duration_s": round(duration_s, 6),
    }
    if code != "OK" and detail:
        fields["detail"] = detail[:500]
    if request.session_id:
        fields["session_id"] = request.session_id
    if observed.refusal is not None:
        fields["refusal"] = observed.refusal.reason.value
    if observed.last is not None:
        start, _, _, account = observed.last
        fields["placement"] = start.placement
        fields["route"] = attributes.route(start.kind)
        fields["reason"] = start.reason
        usage = account.usage
        if usage is not None:
            fields["prompt_tokens"] = usage.prompt_tokens
            fields["output_tokens"] = usage.completion_tokens
            if usage.cached_tokens is not None:
                fields["cached_tokens"] = usage.cached_tokens
    # Integers: a sum over the lines is exact. Failed attempts of the request are in it.
    if observed.metered_nano_usd is not None:
        fields["metered_nano_usd"] = observed.metered_nano_usd
    if observed.charged_nano_usd is not None:
        fields["charged_nano_usd"] = observed.charged_nano_usd
    if observed.result is not None:
        fields["queue_s"] = round(observed.result.queue_s, 6)
        if observed.result.ttft_s is not None:
            fields["ttft_s"] = round(observed.result.ttft_s, 6)
        if observed.result.tpot_s is not None:
            fields["tpot_s"] = round(observed.result.tpot_s, 6)
    return fields
