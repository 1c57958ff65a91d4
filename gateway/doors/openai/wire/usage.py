"""Token usage in the words of OpenAI. What is unknown is left out."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.config.money import usd_text
from gateway.domain.outcomes import Finished
from scheduler.contract import Usage


def chat_usage(finished: Finished) -> dict[str, Any]:
    """`usage` of Chat Completions and Completions, with `cost` in US dollars where it is known."""
    usage = finished.usage
    found = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    return found | _details(usage, "prompt", "completion") | _cost(finished)


def input_usage(finished: Finished) -> dict[str, Any]:
    """`usage` of Embeddings."""
    tokens = finished.usage.prompt_tokens
    return {"prompt_tokens": tokens, "total_tokens": tokens} | _cost(finished)


def responses_usage(finished: Finished) -> dict[str, Any]:
    """`usage` of Responses, whose schema wants both details."""
    usage = finished.usage
    found: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": usage.all_cache_write_tokens or 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    return found | _cost(finished)


def _details(usage: Usage, prompt: str, completion: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if usage.cached_tokens is not None:
        found[f"{prompt}_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        found[f"{completion}_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return found


def _cost(finished: Finished) -> dict[str, Any]:
    charged = finished.charged_nano_usd
    return {} if charged is None else {"cost": msgspec.Raw(usd_text(charged).encode())}
