"""Accounts of an Anthropic-shaped server as `Usage`: cached tokens stand beside the input there.

Counts are running totals; some events leave out what others told, so each is kept until replaced.
"""

from __future__ import annotations

from gateway.upstream.anthropic import wire
from gateway.upstream.token_estimate import MAX_TOKENS
from scheduler.contract import Usage


class Account:
    """The newest counts of one stream. Absurd ones (negative, astronomic) are no counts."""

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
        """Output so far; None: not told."""
        return self._output

    @property
    def prompt_tokens(self) -> int | None:
        """The whole prompt, whatever of it was cached; None: not told."""
        if self._input is None:
            return None
        return self._input + (self._read or 0) + (self._written or 0)

    def take(self, usage: wire.Usage | None) -> None:
        """Takes what an event tells."""
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
        # message_start counts the first few tokens only: the account is whole with a later one.
        output = _newer(usage.output_tokens, None)
        if output is not None:
            self._output_counted = self._output is not None
            self._output = output

    def usage(self) -> Usage | None:
        """The whole account; None: a count is missing."""
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
