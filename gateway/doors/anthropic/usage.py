"""Usage and stop reasons in the words of the Messages API."""

from __future__ import annotations

from gateway.domain.generation import FinishReason
from scheduler.contract import Usage

_STOP_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}


def stop_reason(finish: FinishReason | None) -> str:
    """The stop reason of an answer. None: the upstream told none, so the turn has ended."""
    return "end_turn" if finish is None else _STOP_REASONS[finish]


def usage_fields(usage: Usage) -> dict[str, int]:
    """The tokens of an answer. `input_tokens` are those that no cache had, as the API counts them.
    Counts that the upstream does not tell are left out where the schema allows it."""
    cached = usage.cached_tokens or 0
    written = usage.cache_write_tokens or 0
    fields = {"input_tokens": max(0, usage.prompt_tokens - cached - written)}
    if usage.cached_tokens is not None:
        fields["cache_read_input_tokens"] = usage.cached_tokens
    if usage.cache_write_tokens is not None:
        fields["cache_creation_input_tokens"] = usage.cache_write_tokens
    fields["output_tokens"] = usage.completion_tokens
    return fields
