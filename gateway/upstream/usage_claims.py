"""Token counts of upstreams as claims: what is plausible is believed, the rest is bounded.

- Counts of one stream are running totals: the largest of each counts.
- 0 beside content is no count.
- A count above what the request allows is refused, and the bound counts in its place. An astronomic
  count, or one below what the content can consist of, is refused, and the estimate counts.
- What replaces a refused count is marked as estimated.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.domain.generation import Deviation, DeviationKind
from gateway.upstream.answer_bounds import MAX_BYTES_PER_TOKEN, AnswerBounds
from gateway.upstream.token_estimate import MAX_TOKENS
from scheduler.contract import Usage

UNSEEN_PROMPT_TOKENS = 20_480
"""Prompt tokens that a provider may add to what the request holds: its instructions for tools, and
what its own tools find."""
MIN_TEXT_BYTES = 128
"""Text below this size can be a single token."""


class Claim(msgspec.Struct):
    """Counts as a server reports them, normalised: the prompt with everything that was read from
    and written to caches, the output with reasoning. None: not reported. `unnamed_tokens`: those of
    the total that are in no other count: Gemini's hidden thinking, which is output."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    long_cache_write_tokens: int | None = None
    unnamed_tokens: int = 0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Output that has come. `size_bytes`: UTF-8 bytes; `least_tokens`: tokens, estimated from it;
    `cut`: the gateway ended the stream because there was too much."""

    size_bytes: int
    least_tokens: int
    cut: bool = False


def larger(one: int | None, other: int | None) -> int | None:
    """The larger of two running totals; None: neither is known. Negative counts are unknown,
    astronomic ones become `MAX_TOKENS` + 1."""
    if other is None or other < 0:
        return one
    other = min(other, MAX_TOKENS + 1)
    return other if one is None or other > one else one


def judged(
    claim: Claim, seen: Seen, bounds: AnswerBounds, prompt_estimate: Callable[[], int]
) -> tuple[Usage, tuple[Deviation, ...]]:
    """The usage that counts, and what was refused. `prompt_estimate`: tokens of the prompt, where
    no count is believed."""
    refused: list[DeviationKind] = []
    prompt, prompt_known = _prompt(claim.prompt_tokens, bounds, prompt_estimate, refused)
    completion = claim.completion_tokens
    if (
        completion is not None
        and completion + claim.unnamed_tokens <= bounds.believed_output_tokens
    ):
        completion += claim.unnamed_tokens
    output, output_known = _output(completion, seen, bounds, refused)
    # Parts of a count that is refused are refused with it.
    cached = _part(claim.cached_tokens, prompt) if prompt_known else None
    left = prompt - (cached or 0)
    written = _part(claim.cache_write_tokens, left) if prompt_known else None
    left -= written or 0
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=output,
        cached_tokens=cached,
        reasoning_tokens=_part(claim.reasoning_tokens, output) if output_known else None,
        cache_write_tokens=written,
        long_cache_write_tokens=(
            _part(claim.long_cache_write_tokens, left) if prompt_known else None
        ),
        estimated=not (prompt_known and output_known),
    )
    return usage, tuple(Deviation(kind=kind) for kind in refused)


def _prompt(
    claimed: int | None,
    bounds: AnswerBounds,
    estimate: Callable[[], int],
    refused: list[DeviationKind],
) -> tuple[int, bool]:
    """Tokens of the prompt, and whether they are those claimed."""
    if not claimed:
        if claimed == 0:
            refused.append(DeviationKind.USAGE_ZERO)
        return estimate(), False
    if claimed > UNSEEN_PROMPT_TOKENS:
        most = bounds.prompt_token_bound()
        if claimed > most + UNSEEN_PROMPT_TOKENS:
            refused.append(DeviationKind.USAGE_TOO_MANY_PROMPT)
            return (most if claimed <= MAX_TOKENS else estimate()), False
    if bounds.prompt_chars() > MIN_TEXT_BYTES + MAX_BYTES_PER_TOKEN * claimed:
        refused.append(DeviationKind.USAGE_TOO_FEW_PROMPT)
        return max(claimed, estimate()), False
    return claimed, True


def _output(
    claimed: int | None, seen: Seen, bounds: AnswerBounds, refused: list[DeviationKind]
) -> tuple[int, bool]:
    """Tokens of the output, and whether they are those claimed."""
    if seen.cut:
        refused.append(DeviationKind.OUTPUT_CUT)
        return bounds.output_tokens, False
    estimate = min(seen.least_tokens, bounds.believed_output_tokens)
    if claimed is None:
        return estimate, False
    if claimed == 0 and seen.size_bytes:
        refused.append(DeviationKind.USAGE_ZERO)
        return estimate, False
    if claimed > bounds.believed_output_tokens:
        refused.append(DeviationKind.USAGE_TOO_MANY_OUTPUT)
        return (bounds.output_tokens if claimed <= MAX_TOKENS else estimate), False
    if seen.size_bytes > MIN_TEXT_BYTES * bounds.choices + MAX_BYTES_PER_TOKEN * claimed:
        refused.append(DeviationKind.USAGE_TOO_FEW_OUTPUT)
        return max(claimed, estimate), False
    return claimed, True


def _part(count: int | None, whole: int) -> int | None:
    """A part of a count; unknown if it is more than the whole."""
    return None if count is None or count > whole else count
