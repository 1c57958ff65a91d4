"""An attempt that runs on a placement, as the scheduler counts it there."""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

from scheduler.contract import Request


class Joins(enum.IntEnum):
    """Which step of the engine a prompt joins."""

    OWN = 0
    """No other prompt is pending."""
    SHARED = 1
    """The one that computes the pending prompts, too, and has not begun."""
    NEXT = 2
    """The one after those that compute the pending prompts."""


class FirstToken(NamedTuple):
    """A predicted first token. `alone_s`: time to it if no prompt is sent later; `unit_s`: what
    later ones add is learnt in units of this."""

    alone_s: float
    joins: Joins
    unit_s: float


class Resident(msgspec.Struct, kw_only=True):
    """An attempt that runs on a placement."""

    request: Request
    started_s: float
    promised_ttft_s: float
    kv_reserved_tokens: int
    """Tokens reserved for the prompt and the expected output."""
    prefill_s: float
    """Predicted time of its prefill; 0 on a remote."""
    hit_tokens: int
    """Prompt tokens that were expected in the prefix cache."""
    predicted_ttft_s: float | None = None
    typical_ttft: FirstToken | None = None
    """`TypicalTimes.first` at its start; None on a remote."""
    kv_spread_tokens: float = 0.0
    """Tokens by which one output in ten may exceed the expected output."""
    service_nano_usd: float = 0.0
    """Service that was charged to its tenant at the start, for fairness."""
    output_tokens: int = 0
    seen_s: float = 0.0
    """Time of the newest progress event."""
    nano_usd_per_s: float = 0.0
    """Rate of its group when it started, in terms of fairness; 0 on a remote."""
    evicting: bool = False
    is_retry: bool = False
    """An earlier attempt failed on another placement."""

    @property
    def kv_tokens(self) -> int:
        """KV tokens that the attempt holds once its prompt is computed."""
        return self.request.prompt_tokens + self.output_tokens
