"""Token counts of an Anthropic-shaped server as a `Claim`.

Cached tokens are not part of the input there. Counts are running totals, and an event may leave
some of them out or set them to 0, so that the largest of each counts.
"""

from __future__ import annotations

from gateway.upstream.anthropic import wire
from gateway.upstream.usage_claims import Claim, larger


class UsageCounts:
    """The largest counts of one stream."""

    def __init__(self) -> None:
        self._input: int | None = None
        self._read: int | None = None
        self._written: int | None = None
        self._written_short: int | None = None
        self._written_long: int | None = None
        self._thinking: int | None = None
        self._output: int | None = None
        self._output_counted = False

    @property
    def output_tokens(self) -> int | None:
        """Output tokens so far; None: not reported."""
        return self._output

    def update(self, usage: wire.Usage | None, *, at_start: bool = False) -> None:
        """Adds the counts of an event; None: it has none. `at_start`: the event begins the answer
        and counts only the first few tokens of the output."""
        if usage is None:
            return
        self._input = larger(self._input, usage.input_tokens)
        self._read = larger(self._read, usage.cache_read_input_tokens)
        self._written = larger(self._written, usage.cache_creation_input_tokens)
        if usage.cache_creation is not None:
            short = usage.cache_creation.ephemeral_5m_input_tokens
            long = usage.cache_creation.ephemeral_1h_input_tokens
            self._written_short = larger(self._written_short, short)
            self._written_long = larger(self._written_long, long)
        if usage.output_tokens_details is not None:
            thinking = usage.output_tokens_details.thinking_tokens
            self._thinking = larger(self._thinking, thinking)
        output = larger(None, usage.output_tokens)
        if output is not None:
            self._output_counted = self._output_counted or not at_start
            self._output = larger(self._output, output)

    def claim(self) -> Claim:
        """The counts of the whole stream."""
        by_lifetime = (self._written_short or 0) + (self._written_long or 0)
        written = larger(self._written, by_lifetime or None)
        prompt = self._input
        if prompt is not None or self._read or written:
            prompt = (prompt or 0) + (self._read or 0) + (written or 0)
        long = self._written_long
        if long is not None:
            long = min(long, written or 0)
        return Claim(
            prompt_tokens=prompt,
            completion_tokens=self._output if self._output_counted else None,
            cached_tokens=self._read,
            reasoning_tokens=self._thinking,
            cache_write_tokens=None if written is None else written - (long or 0),
            long_cache_write_tokens=long,
        )
