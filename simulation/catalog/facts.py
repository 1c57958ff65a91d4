"""Composition of a model: layers, experts, attention, parameters, KV cache per token.

Sizes of attention differ by layer in newer models (full, sliding window, latent, linear state), so
they are kept per kind of layer. Counts leave out norms, biases and the multi-token-prediction
heads, together below 1.5 % (the catalog's test compares the totals with the published ones).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

BF16_BYTES = 2.0


class KvKind(enum.StrEnum):
    """Kind of state that a layer keeps for earlier tokens."""

    FULL = "full"
    """Keys and values of every token (multi-head, GQA, MQA)."""
    WINDOW = "window"
    """Keys and values of the last tokens only: a sliding window, or the current chunk."""
    LATENT = "latent"
    """One latent vector per token (MLA); tensor-parallel ranks all hold it."""
    COMPRESSED = "compressed"
    """One entry per several tokens, and a short window."""
    LINEAR = "linear"
    """A state of fixed size per sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayers:
    """The layers of one kind.

    Attributes:
        layers: how many there are.
        parameters: of one layer's attention.
        replicated_parameters: those of them that every tensor-parallel GPU holds whole.
        kv_values: numbers that one token adds to one layer's cache, up to `window_tokens`.
        kv_heads: into how many parts tensor parallelism can split the cache.
        pair_flops: operations of one layer per pair of a token and one before it.
        window_tokens: most tokens that are kept; None: all.
        read_tokens: most tokens that one decode step reads (sparse attention); None: all kept.
        index_bytes: per token of one layer, for the index that chooses what is read.
        index_flops: of one layer per pair, for that index.
        state_bytes: per sequence of one layer, whatever its length.
    """

    kind: KvKind
    layers: int
    parameters: int
    kv_values: float
    kv_heads: int
    pair_flops: float
    window_tokens: int | None = None
    read_tokens: int | None = None
    index_bytes: float = 0.0
    index_flops: float = 0.0
    state_bytes: float = 0.0
    replicated_parameters: int = 0

    @property
    def attended_tokens(self) -> int | None:
        """Most tokens that one token attends to; None: all before it."""
        limits = [limit for limit in (self.window_tokens, self.read_tokens) if limit is not None]
        return min(limits, default=None)

    def kept_tokens(self, context_tokens: float) -> float:
        """Tokens of a sequence that long whose keys are kept."""
        window = self.window_tokens
        return context_tokens if window is None else min(context_tokens, window)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """One model.

    Attributes:
        moe_layers, dense_layers: by their feed-forward part.
        experts, experts_per_token: routed, per MoE layer; 1 and 1 in a dense model.
        expert_parameters: of one routed expert in one layer.
        shared_parameters: of the shared experts of one MoE layer.
        dense_parameters: of the feed-forward part of one dense layer.
        tied_embeddings: whether the output head is the embedding table.
        context_tokens: longest sequence; None when the model does not say.
        expert_bytes, weight_bytes: per parameter of routed experts and of the other layers, scales
            of a quantised format included. Embeddings count 2 bytes.
        widened_experts: whether their numbers are widened to 16 bits before they are multiplied
            (4-bit integers), so that only bytes are saved.
    """

    name: str
    hidden: int
    vocabulary: int
    attention: tuple[AttentionLayers, ...]
    moe_layers: int
    dense_layers: int
    experts: int
    experts_per_token: int
    expert_parameters: int
    shared_parameters: int
    dense_parameters: int
    tied_embeddings: bool
    context_tokens: int | None
    expert_bytes: float
    weight_bytes: float
    widened_experts: bool = False

    @property
    def layers(self) -> int:
        """All layers."""
        return self.moe_layers + self.dense_layers

    @property
    def routed_parameters(self) -> int:
        """Parameters of all routed experts."""
        return self.moe_layers * self.experts * self.expert_parameters

    @property
    def embedding_parameters(self) -> int:
        """Embedding table, and the output head unless it is the same."""
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def resident_parameters(self) -> int:
        """Parameters that every token uses: attention, routers, shared and dense parts.

        Embeddings are not included."""
        attention = sum(kind.layers * kind.parameters for kind in self.attention)
        router = self.experts * self.hidden if self.moe_layers else 0
        moe = self.moe_layers * (router + self.shared_parameters)
        return attention + moe + self.dense_layers * self.dense_parameters

    @property
    def total_parameters(self) -> int:
        """All parameters."""
        return self.routed_parameters + self.embedding_parameters + self.resident_parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses; of the embeddings, the output head only."""
        routed = self.moe_layers * self.experts_per_token * self.expert_parameters
        return routed + self.vocabulary * self.hidden + self.resident_parameters

    @property
    def weights_bytes(self) -> float:
        """All weights in memory."""
        return (
            self.routed_parameters * self.expert_bytes
            + self.resident_parameters * self.weight_bytes
            + self.embedding_parameters * BF16_BYTES
        )

    def sequence_bytes(
        self, context_tokens: float, value_bytes: float = BF16_BYTES, tensor_parallel: int = 1
    ) -> float:
        """KV cache of one sequence on one tensor-parallel GPU; latent KV is on each of them."""
        return (
            self._cache_bytes(
                value_bytes, tensor_parallel, lambda kind: kind.kept_tokens(context_tokens)
            )
            + sum(kind.layers * kind.index_bytes for kind in self.attention) * context_tokens
        )

    def step_read_bytes(
        self, context_tokens: float, value_bytes: float = BF16_BYTES, tensor_parallel: int = 1
    ) -> float:
        """Cache bytes that one decode step of a sequence reads on one tensor-parallel GPU."""

        def read(kind: AttentionLayers) -> float:
            kept = kind.kept_tokens(context_tokens)
            return kept if kind.read_tokens is None else min(kept, kind.read_tokens)

        index = sum(kind.layers * kind.index_bytes for kind in self.attention)
        return self._cache_bytes(value_bytes, tensor_parallel, read) + index * context_tokens

    def kv_bytes_per_token(self, value_bytes: float = BF16_BYTES) -> float:
        """What a token adds to the cache while every window still grows; no index."""
        return sum(kind.layers * kind.kv_values for kind in self.attention) * value_bytes

    def kv_bytes_per_late_token(self, value_bytes: float = BF16_BYTES) -> float:
        """What a token adds once every window is full; no index."""
        growing = (kind for kind in self.attention if kind.window_tokens is None)
        return sum(kind.layers * kind.kv_values for kind in growing) * value_bytes

    def _cache_bytes(
        self, value_bytes: float, tensor_parallel: int, tokens: Callable[[AttentionLayers], float]
    ) -> float:
        return sum(
            kind.layers
            * (kind.kv_values * tokens(kind) * value_bytes + kind.state_bytes)
            / min(tensor_parallel, kind.kv_heads)
            for kind in self.attention
        )
