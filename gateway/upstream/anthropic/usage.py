"""Token counts of an Anthropic-shaped server as a `Claim`.

Cached tokens are not part of the input there. Counts are running totals, and an event may leave
some of them out or set them to 0, so that the largest of each counts. Servers that first count the
whole prompt as input, and later what of it was cached, tell one prompt in two ways: the larger way
counts, not the sum of both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.upstream.anthropic import wire
from gateway.upstream.usage_claims import Claim, larger


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """Tokens of the prompt by how they were read. None: not reported."""

    input: int | None = None
    read: int | None = None
    written: int | None = None
    written_short: int | None = None
    written_long: int | None = None

    @property
    def written_tokens(self) -> int | None:
        """Tokens written to the cache."""
        return larger(self.written, (self.written_short or 0) + (self.written_long or 0) or None)

    @property
    def tokens(self) -> int | None:
        """All tokens of the prompt."""
        if self.input is None and not self.read and not self.written_tokens:
            return None
        return (self.input or 0) + (self.read or 0) + (self.written_tokens or 0)

    def with_larger(self, other: _Prompt) -> _Prompt:
        """The larger of each count."""
        return _Prompt(
            input=larger(self.input, other.input),
            read=larger(self.read, other.read),
            written=larger(self.written, other.written),
            written_short=larger(self.written_short, other.written_short),
            written_long=larger(self.written_long, other.written_long),
        )

    def or_other_way(self, other: _Prompt) -> _Prompt:
        """This prompt, or how a later event tells it: what has more tokens, or more cached ones."""
        if not self.input or other.input is None or self.input == other.input:
            return self.with_larger(other)
        if not other.input and not other.read and not other.written_tokens:
            return self  # zeros are no counts
        named = replace(
            other,
            read=self.read if other.read is None else other.read,
            written=self.written if other.written is None else other.written,
            written_short=other.written_short or self.written_short,
            written_long=other.written_long or self.written_long,
        )
        mine, its = (self.tokens or 0, -self.input), (named.tokens or 0, -other.input)
        return named if its > mine else self


class UsageCounts:
    """The counts of one stream."""

    def __init__(self) -> None:
        self._prompt = _Prompt()
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
        creation = usage.cache_creation or wire.CacheCreation()
        self._prompt = self._prompt.or_other_way(
            _Prompt(
                input=larger(None, usage.input_tokens),
                read=larger(None, usage.cache_read_input_tokens),
                written=larger(None, usage.cache_creation_input_tokens),
                written_short=larger(None, creation.ephemeral_5m_input_tokens),
                written_long=larger(None, creation.ephemeral_1h_input_tokens),
            )
        )
        if usage.output_tokens_details is not None:
            thinking = usage.output_tokens_details.thinking_tokens
            self._thinking = larger(self._thinking, thinking)
        output = larger(None, usage.output_tokens)
        if output is not None:
            self._output_counted = self._output_counted or not at_start
            self._output = larger(self._output, output)

    def claim(self) -> Claim:
        """The counts of the whole stream."""
        prompt = self._prompt
        written = prompt.written_tokens
        long = prompt.written_long
        if long is not None:
            long = min(long, written or 0)
        return Claim(
            prompt_tokens=prompt.tokens,
            completion_tokens=self._output if self._output_counted else None,
            cached_tokens=prompt.read,
            reasoning_tokens=self._thinking,
            cache_write_tokens=None if written is None else written - (long or 0),
            long_cache_write_tokens=long,
        )
