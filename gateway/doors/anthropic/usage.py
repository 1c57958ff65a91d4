"""Usage and stop reasons in the words of the Messages API."""

from __future__ import annotations

from typing import Any

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


def usage_fields(usage: Usage) -> dict[str, Any]:
    """The tokens of a whole answer. `input_tokens` are those that no cache had, as the API counts
    them; null: the upstream does not tell, or the field means nothing here."""
    short, long = usage.cache_write_tokens, usage.long_cache_write_tokens
    written = None
    if usage.all_cache_write_tokens is not None:
        written = {
            "ephemeral_5m_input_tokens": short or 0,
            "ephemeral_1h_input_tokens": long or 0,
        }
    return {
        **delta_usage_fields(usage),
        "cache_creation": written,
        "inference_geo": None,
        "service_tier": None,
    }


def delta_usage_fields(usage: Usage) -> dict[str, Any]:
    """The tokens at the end of a stream."""
    cached, written = usage.cached_tokens, usage.all_cache_write_tokens
    reasoning = usage.reasoning_tokens
    return {
        "input_tokens": max(0, usage.prompt_tokens - (cached or 0) - (written or 0)),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": None if reasoning is None else {"thinking_tokens": reasoning},
        "server_tool_use": None,
    }
