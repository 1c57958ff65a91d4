"""Requests to a simulated engine, and the state of each of their sequences."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass

from simulation.kv_cache import block_hash, root_hash
from simulation.output import FinishReason, Output


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRequest:
    """A prompt and its choices.

    Attributes:
        request_id: unique among the requests in the engine.
        prompt_ids: at least one token.
        outputs: one answer per choice.
        cache_salt: only requests with the same salt share cached blocks.
    """

    request_id: str
    prompt_ids: Ids[int]
    outputs: tuple[Output, ...]
    cache_salt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOutput:
    """What a step brought one choice.

    Attributes:
        tokens: output tokens so far, this step's included.
        cached_tokens: of the prompt, found in the prefix cache when it was first admitted.
        finish_reason: None: it goes on.
    """

    request_id: str
    choice: int
    tokens: int
    cached_tokens: int
    finish_reason: FinishReason | None


class Sequence:
    """One choice on its way through the engine. Only the engine writes here."""

    __slots__ = (
        "admitted_s",
        "arrival_s",
        "blocks",
        "cached_tokens",
        "choice",
        "computed_tokens",
        "ended",
        "first_token_s",
        "found_tokens",
        "hashes",
        "last_token_s",
        "output",
        "output_tokens",
        "prompt_tokens",
        "recomputes",
        "request",
    )

    def __init__(
        self, request: SequenceRequest, choice: int, hashes: list[bytes], arrival_s: float
    ) -> None:
        self.request = request
        self.choice = choice
        self.output = request.outputs[choice]
        self.prompt_tokens = len(request.prompt_ids)
        self.arrival_s = arrival_s
        self.admitted_s: float | None = None
        self.first_token_s = 0.0
        self.last_token_s = 0.0
        self.output_tokens = 0
        self.cached_tokens = 0
        """Found in the prefix cache when it was first admitted; `found_tokens`: the last time."""
        self.found_tokens = 0
        self.computed_tokens = 0
        """Tokens whose keys and values are in `blocks`."""
        self.blocks: list[int] = []
        self.hashes = hashes
        """Of the full blocks, as far as they are known."""
        self.recomputes = False
        """Whether it was preempted and its prefill has not caught up."""
        self.ended = False

    @property
    def total_tokens(self) -> int:
        """Prompt and output so far."""
        return self.prompt_tokens + self.output_tokens

    @property
    def pending_tokens(self) -> int:
        """Tokens that must be computed before the next one can be made."""
        return self.total_tokens - self.computed_tokens

    @property
    def decodes(self) -> bool:
        """Whether its next step is a decode step, not a prefill."""
        return self.output_tokens > 0 and not self.recomputes

    def block_hash(self, index: int, block_size: int) -> bytes:
        """Hash of full block `index`, with all before it known."""
        while len(self.hashes) <= index:
            start = len(self.hashes) * block_size
            parent = self.hashes[-1] if self.hashes else root_hash(self.request.cache_salt)
            self.hashes.append(block_hash(parent, self._tokens(start, start + block_size)))
        return self.hashes[index]

    def _tokens(self, start: int, end: int) -> list[int]:
        prompt = self.prompt_tokens
        ids = list(self.request.prompt_ids[start:end])
        token_id = self.output.token_id
        ids += (token_id(i) for i in range(max(0, start - prompt), max(0, end - prompt)))
        return ids


def prompt_hashes(request: SequenceRequest, block_size: int) -> list[bytes]:
    """Hashes of the prompt's full blocks."""
    hashes = []
    parent = root_hash(request.cache_salt)
    ids = request.prompt_ids
    for end in range(block_size, len(ids) + 1, block_size):
        parent = block_hash(parent, ids[end - block_size : end])
        hashes.append(parent)
    return hashes
