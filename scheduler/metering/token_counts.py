"""Splits reported usage into token counts that have separate prices.

`contract.Usage` is the one normal form: `prompt_tokens` holds everything that was read,
cached tokens and cache writes inside; `completion_tokens` everything that was written, reasoning
inside. Upstream clients convert reported usage to that form; this module splits it.
"""

from __future__ import annotations

from scheduler.contract import Usage
from scheduler.pricing import TokenCounts


def token_counts(usage: Usage) -> TokenCounts:
    """Tokens by price; unknown cached counts are 0, so that all input counts as computed."""
    cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
    written = min(usage.cache_write_tokens or 0, usage.prompt_tokens - cached)
    long_written = min(usage.long_cache_write_tokens or 0, usage.prompt_tokens - cached - written)
    return TokenCounts(
        uncached_input_tokens=usage.prompt_tokens - cached - written - long_written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        long_cache_write_tokens=long_written,
        output_tokens=usage.completion_tokens,
    )
