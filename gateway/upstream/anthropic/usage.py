"""Token counts of an Anthropic-shaped server as `Usage`.

Cached tokens are not part of the input there. Counts are running totals, and an event may leave
some of them out, so that each is kept until another one replaces it.
"""

from __future__ import annotations

from gateway.upstream.anthropic import wire
from gateway.upstream.token_estimate import MAX_TOKENS
from scheduler.contract import Usage


class UsageCounts:
    """The newest counts of one stream. Absurd ones (negative, astronomic) are ignored."""

    def __init__(self) -> None:
        self._input: int | None = None
        self._read: int | None = None
        self._written: int | None = None
        self._written_long: int | None = None
        self._thinking: int | None = None
        self._output: int | None = None
        self._output_counted = False

    @property
    def output_tokens(self) -> int | None:
        """Output tokens so far; None: not reported."""
        return self._output

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of the whole prompt, cached ones included; None: not reported."""
        if self._input is None:
            return None
        return self._input + (self._read or 0) + (self._written or 0)

    def update(self, usage: wire.Usage | None) -> None:
        """Adds the counts of an event; None: it has none."""
        if usage is None:
            return
        self._input = _newer(usage.input_tokens, self._input)
        self._read = _newer(usage.cache_read_input_tokens, self._read)
        self._written = _newer(usage.cache_creation_input_tokens, self._written)
        if usage.cache_creation is not None:
            long = usage.cache_creation.ephemeral_1h_input_tokens
            self._written_long = _newer(long, self._written_long)
        if usage.output_tokens_details is not None:
            self._thinking = _newer(usage.output_tokens_details.thinking_tokens, self._thinking)
        # message_start counts only the first few tokens: a later event completes the counts.
        output = _newer(usage.output_tokens, None)
        if output is not None:
            self._output_counted = self._output is not None
            self._output = output

    def usage(self) -> Usage | None:
        """All counts; None: one is missing."""
        prompt = self.prompt_tokens
        if prompt is None or self._output is None or not self._output_counted:
            return None
        written = self._written or 0
        long = min(self._written_long or 0, written)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=self._output,
            cached_tokens=self._read,
            reasoning_tokens=self._thinking,
            cache_write_tokens=written - long,
            long_cache_write_tokens=long,
        )


def _newer(count: int | None, known: int | None) -> int | None:
    return count if count is not None and 0 <= count <= MAX_TOKENS else known
