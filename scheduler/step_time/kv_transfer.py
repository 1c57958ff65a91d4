"""Time in which the KV cache of a prompt travels between the engines of a disaggregated replica."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KvTransferTime:
    """`constant_s`: of each transfer; `token_s`: for each prompt token."""

    constant_s: float = 0.0
    token_s: float = 0.0

    @property
    def row(self) -> tuple[float, float]:
        """Both terms."""
        return self.constant_s, self.token_s

    def seconds(self, prompt_tokens: float) -> float:
        """Time of one prompt's transfer."""
        return self.constant_s + self.token_s * prompt_tokens


NO_TRANSFER = KvTransferTime()
"""Of a group whose engines keep what they compute, or of which nothing is known yet."""
