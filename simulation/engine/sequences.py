"""Requests to a simulated engine, and the state of each of their sequences.

A request may carry tokens (`TokenRequest`: the simulated vLLM server, whose cache must find what
real text shares) or lengths and the keys of its content (`LengthRequest`: a fleet simulation, for
which a token would be a waste). The engine treats both alike.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Protocol

from simulation.engine.kv_cache import Key, block_hash, root_hash
from simulation.output import FinishReason, Output


class Answer(Protocol):
    """One answer as the engine sees it."""

    @property
    def tokens(self) -> int:
        """Length of the answer in tokens."""

    @property
    def finish_reason(self) -> FinishReason:
        """Reason for its end."""


class SequenceRequest(Protocol):
    """A prompt and its choices."""

    @property
    def request_id(self) -> str:
        """Unique among the requests in the engine."""

    @property
    def prompt_tokens(self) -> int:
        """At least 1."""

    @property
    def outputs(self) -> Ids[Answer]:
        """One answer per choice."""

    @property
    def adapter(self) -> str:
        """LoRA adapter that computes it; empty: none."""

    @property
    def transferred(self) -> bool:
        """Whether the KV cache of its prompt comes from another engine, but for the last token."""

    def keys(self, known: Ids[Key], choice: int, extents: int, extent_tokens: int) -> Ids[Key]:
        """Keys of the first `extents` full extents, as far as any are there; `known` go before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """A prompt of tokens.

    `cache_salt`: only requests with the same salt, and the same adapter, share cached blocks.
    """

    request_id: str
    prompt_ids: Ids[int]
    outputs: tuple[Output, ...]
    cache_salt: str = ""
    adapter: str = ""
    transferred: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.prompt_ids)

    def keys(self, known: Ids[Key], choice: int, extents: int, extent_tokens: int) -> Ids[Key]:
        """Chained hashes of prompt and answer."""
        keys: list[Key] = list(known)
        parent = keys[-1] if keys else root_hash(self.cache_salt, self.adapter)
        while len(keys) < extents:
            start = len(keys) * extent_tokens
            tokens = self._tokens(choice, start, start + extent_tokens)
            parent = block_hash(parent if isinstance(parent, bytes) else b"", tokens)
            keys.append(parent)
        return keys

    def _tokens(self, choice: int, start: int, end: int) -> list[int]:
        prompt = len(self.prompt_ids)
        ids = list(self.prompt_ids[start:end])
        token_id = self.outputs[choice].token_id
        ids += (token_id(i) for i in range(max(0, start - prompt), max(0, end - prompt)))
        return ids


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthRequest:
    """Lengths of a prompt and its answer, which runs to its end; it is an `Answer` itself.

    `content`: keys of the full extents of prompt and answer, as far as others may share them.
    """

    request_id: str
    prompt_tokens: int
    tokens: int
    content: Ids[Key] = ()
    adapter: str = ""
    transferred: bool = False

    @property
    def finish_reason(self) -> FinishReason:
        """The answer always ends by itself."""
        return FinishReason.STOP

    @property
    def outputs(self) -> tuple[LengthRequest]:
        """The one answer."""
        return (self,)

    def keys(self, known: Ids[Key], choice: int, extents: int, extent_tokens: int) -> Ids[Key]:
        """Returns the given keys, regardless of `extents`."""
        return self.content


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOutput:
    """Result of a step for one choice.

    Attributes:
        tokens: output tokens so far, this step's included.
        cached_tokens: of the prompt, found in the prefix cache when it was first admitted.
        finish_reason: None while the choice continues.
    """

    request_id: str
    choice: int
    tokens: int
    cached_tokens: int
    finish_reason: FinishReason | None


class Sequence:
    """One choice in the engine. Only the engine changes its fields.

    While it decodes its length is not counted up: it is `base` plus the step count of its rank.
    """

    __slots__ = (
        "admitted_s",
        "arrival_s",
        "base",
        "blocks",
        "cached_tokens",
        "choice",
        "computed_tokens",
        "cost_s",
        "decodes",
        "end_step",
        "ended",
        "first_token_s",
        "found_tokens",
        "known",
        "marks",
        "named",
        "named_upto",
        "output",
        "output_tokens",
        "preempted_s",
        "preemptions",
        "prompt_tokens",
        "rank",
        "request",
        "scheduled_s",
    )

    def __init__(
        self, request: SequenceRequest, choice: int, known: Ids[Key], rank: int, arrival_s: float
    ) -> None:
        self.request = request
        self.choice = choice
        self.output = request.outputs[choice]
        self.prompt_tokens = request.prompt_tokens
        self.rank = rank
        self.arrival_s = arrival_s
        self.admitted_s: float | None = None
        self.first_token_s = 0.0
        self.preempted_s = 0.0
        self.preemptions = 0
        self.scheduled_s = 0.0
        """When it was admitted last."""
        self.output_tokens = 0
        self.cached_tokens = 0
        """Found in the prefix cache when it was first admitted; `found_tokens`: the last time."""
        self.found_tokens = 0
        self.computed_tokens = 0
        """Tokens whose keys and values are computed."""
        self.known: Ids[Key] = known
        """Keys of the content, as far as they are known."""
        self.named: list[Key] = []
        """Extents that it holds under a key; `blocks` counts them, too."""
        self.named_upto = 0
        """Extents from the first on that were named, by it or another."""
        self.blocks = 0
        self.decodes = False
        self.base = 0
        self.end_step = 0
        self.ended = False
        self.cost_s = 0.0
        """Step time that it caused, as far as it was settled; see `cost_truth`."""
        self.marks = (0.0, 0.0, 0.0)

    @property
    def total_tokens(self) -> int:
        """Prompt and output; not kept up while it decodes."""
        return self.prompt_tokens + self.output_tokens

    @property
    def pending_tokens(self) -> int:
        """Tokens that must be computed before the next one can be made."""
        return self.total_tokens - self.computed_tokens

    def keys(self, extents: int, extent_tokens: int) -> Ids[Key]:
        """Keys of the first `extents` full extents, or fewer."""
        if len(self.known) < extents:
            found = self.request.keys(self.known, self.choice, extents, extent_tokens)
            if len(found) > len(self.known):
                self.known = found
        return self.known
