"""Finish words of all servers and dialects, and what each means.

An unknown word ends the answer like STOP: the output is there, and only the word is not understood.
"""

from __future__ import annotations

import re

import msgspec

from gateway.domain.failures import FailureKind, UpstreamFailure, one_line
from gateway.domain.generation import Deviation, DeviationKind, FinishReason

_STOP, _LENGTH = FinishReason.STOP, FinishReason.LENGTH
_CALLS, _FILTERED = FinishReason.TOOL_CALLS, FinishReason.CONTENT_FILTER
_BROKEN, _BUSY = FailureKind.SERVER_ERROR, FailureKind.BUSY

_NO_END = frozenset(
    {"", "null", "none", "not_finished", "finish_reason_unspecified", "unspecified"}
)
"""Words that some servers send while the answer goes on."""

_MEANINGS: dict[str, FinishReason | FailureKind] = {
    # The model has ended, or a stop text came.
    **dict.fromkeys(
        (
            *(
                "stop",
                "eos",
                "eos_token",
                "eos_found",
                "end",
                "end_turn",
                "end_of_turn",
                "complete",
            ),
            *("completed", "done", "finish", "finished", "normal", "success", "stop_sequence"),
            *("stop_string", "stop_string_found", "stop_token", "stop_word", "word", "pause_turn"),
            *("compaction", "stop_criteria_met", "end_of_text", "end_of_sequence"),
        ),
        _STOP,
    ),
    # A limit of tokens was reached.
    **dict.fromkeys(
        (
            *("length", "max_tokens", "max_token", "max_length", "max_output_tokens", "limit"),
            *("max_completion_tokens", "max_new_tokens", "max_tokens_reached", "token_limit"),
            *("max_predicted_tokens_reached", "model_length", "length_capped", "output_limit"),
            *("context_length", "context_length_reached", "context_length_exceeded"),
            *("context_window_exceeded", "model_context_window_exceeded", "tokens_limit"),
            *("max_context_length", "error_limit", "incomplete"),
        ),
        _LENGTH,
    ),
    # The model calls tools, if it does.
    **dict.fromkeys(
        (
            *("tool_calls", "tool_call", "tool_use", "function_call", "function_calls", "tools"),
            *("function", "tool"),
        ),
        _CALLS,
    ),
    # A filter of the provider cut the answer.
    **dict.fromkeys(
        (
            *("content_filter", "content_filtered", "content_filtering", "filtered", "filter"),
            *("safety", "sensitive", "refusal", "recitation", "blocklist", "blocked", "spii"),
            *("prohibited_content", "image_safety", "image_prohibited_content", "error_toxic"),
            *("guardrail_intervened", "guardrails", "moderation", "moderation_blocked", "risk"),
            *("content_policy_violation", "data_inspection_failed", "language", "model_armor"),
        ),
        _FILTERED,
    ),
    # The upstream failed in the middle of the answer.
    **dict.fromkeys(
        (
            *("abort", "aborted", "error", "failed", "failure", "network_error", "server_error"),
            *("internal_error", "internal_server_error", "upstream_error", "cancelled", "canceled"),
            *("timeout", "time_limit", "model_unloaded", "engine_error", "connection_error"),
            *("user_cancel", "user_stopped"),
        ),
        _BROKEN,
    ),
    # The upstream has no room.
    **dict.fromkeys(
        (
            *("insufficient_system_resource", "insufficient_system_resources", "overloaded"),
            *("overloaded_error", "server_busy", "busy", "engine_overloaded", "rate_limit"),
            *("rate_limited", "rate_limit_exceeded", "resource_exhausted", "capacity"),
            *("throttling", "throttled", "service_unavailable", "queue_full"),
        ),
        _BUSY,
    ),
}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NO_LETTERS = re.compile(r"[^a-z0-9]+")
_MAX_WORD_CHARS = 100


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """End of a choice. `deviation`: the word is unknown; None: it is known."""

    reason: FinishReason
    deviation: Deviation | None = None


def finish_of(word: str, *, has_calls: bool) -> Finish | None:
    """What a finish word says about a choice; None: the choice has not ended.

    `has_calls`: the choice has tool calls, which an answer that ends normally then ends with,
    whatever the word. Raises UpstreamFailure for a word that is a failure.
    """
    found = _MEANINGS.get(word)
    if found is None:
        found = _meaning(word)
    if isinstance(found, FailureKind):
        shown = one_line(word, 40)
        text = "has no room" if found is _BUSY else "ended the generation"
        raise UpstreamFailure(found, f"the upstream {text}: {shown}")
    deviation = None
    if found is None:
        if word.strip().lower() in _NO_END or _plain(word) in _NO_END - {""}:
            return None
        deviation = Deviation(kind=DeviationKind.FINISH_WORD, detail=one_line(word, 40))
        found = _STOP
    if found in (_STOP, _CALLS):
        found = _CALLS if has_calls else _STOP
    return Finish(reason=found, deviation=deviation)


def _meaning(word: str) -> FinishReason | FailureKind | None:
    """The meaning of a word in another spelling: MAX_TOKENS, toolCalls, FinishReason.STOP."""
    plain = _plain(word)
    plain_word = plain.removeprefix("finish_reason_")
    return _MEANINGS.get(plain_word)


def _plain(word: str) -> str:
    words = _CAMEL.sub("_", word[:_MAX_WORD_CHARS])
    return _NO_LETTERS.sub("_", words.lower()).strip("_")
