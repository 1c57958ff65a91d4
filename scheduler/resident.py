"""An attempt that runs on a placement, as the scheduler counts it there."""

from __future__ import annotations

import msgspec

from scheduler.contract import Request


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
    typical_ttft: tuple[float, bool] | None = None
    """`TypicalTimes.alone_ttft_s` and `behind` at its start; None on a remote."""
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
