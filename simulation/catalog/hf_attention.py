"""The attention layers of a config.json, grouped by the kind of their KV state.

Parameters: GQA has q, k, v and o; MLA has down and up projections of q and kv, and o; a sparse
index adds its own small q and k; a gated linear layer has q, k, v, its gate and o.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from simulation.catalog.facts import AttentionLayers, KvKind
from simulation.catalog.hf_fields import Config, UnreadableConfig

INDEX_KEY_BYTES = 132.0
"""Key of the sparse index per token and layer: 128 values of 8 bits and a scale of 4 bytes."""
STATE_VALUE_BYTES = 4.0
"""Linear states are kept in 32 bits."""
NO_ROPE_EVERY = 4
"""Llama 4 attends over everything in each fourth layer, and within chunks in the others."""


def attention_layers(part: Config, layers: int, hidden: int) -> tuple[AttentionLayers, ...]:
    """All attention layers. Raises UnreadableConfig on a kind that is not known."""
    kinds = _layer_kinds(part, layers)
    return tuple(_layers(part, kind, number, hidden) for kind, number in kinds.items())


def _layer_kinds(part: Config, layers: int) -> Counter[str]:
    """Names of the kinds as in `layer_types`, and how many layers have them."""
    listed = part.get("layer_types")
    if isinstance(listed, Sequence) and not isinstance(listed, str) and listed:
        return Counter(str(kind) for kind in listed[:layers])
    pattern = part.get("hybrid_layer_pattern")
    if isinstance(pattern, Sequence) and not isinstance(pattern, str):
        sliding = sum(bool(flag) for flag in pattern[:layers])
        return +Counter(full_attention=layers - sliding, sliding_attention=sliding)
    linear = part.part("linear_attn_config")
    if linear is not None and isinstance(full := linear.get("full_attn_layers"), Sequence):
        return +Counter(full_attention=len(full), linear_attention=layers - len(full))
    if part.optional("attention_chunk_size"):
        everywhere = layers // NO_ROPE_EVERY
        return +Counter(full_attention=everywhere, chunked_attention=layers - everywhere)
    if part.get("use_sliding_window") is not False and part.optional("sliding_window"):
        return Counter(sliding_attention=layers)
    return Counter(full_attention=layers)


def _layers(part: Config, kind: str, layers: int, hidden: int) -> AttentionLayers:
    match kind:
        case "linear_attention":
            return _linear(part, layers, hidden)
        case "compressed_sparse_attention" | "heavily_compressed_attention":
            return _compressed(part, kind, layers, hidden)
        case "full_attention" | "indexed_attention" | "deepseek_sparse_attention":
            return _latent(part, layers, hidden) if _is_latent(part) else _gqa(part, layers, hidden)
        case "sliding_attention":
            window = part.count("sliding_window", "sliding_window_size")
            return _gqa(part, layers, hidden, window=window, sliding=True)
        case "chunked_attention":
            return _gqa(part, layers, hidden, window=part.count("attention_chunk_size"))
        case _:
            raise UnreadableConfig(f"layer_types: a layer of kind {kind!r} is not known")


def _is_latent(part: Config) -> bool:
    return part.optional("kv_lora_rank") is not None


def _gqa(
    part: Config, layers: int, hidden: int, window: int | None = None, sliding: bool = False
) -> AttentionLayers:
    other = _sliding_settings(part) if sliding else part
    heads = other.optional("swa_num_attention_heads") if sliding else None
    heads = heads or other.count("num_attention_heads")
    kv_heads = other.optional("swa_num_key_value_heads") if sliding else None
    kv_heads = kv_heads or other.optional("num_key_value_heads", "num_attention_groups") or heads
    key = part.optional("head_dim") or hidden // heads
    value = part.optional("v_head_dim") or key
    gate = heads * value if _has_output_gate(part) else 0
    return AttentionLayers(
        kind=KvKind.FULL if window is None else KvKind.WINDOW,
        layers=layers,
        parameters=hidden * (heads * (key + value) + kv_heads * (key + value) + gate),
        kv_values=kv_heads * (key + value),
        kv_heads=kv_heads,
        pair_flops=2.0 * heads * (key + value),
        window_tokens=window,
    )


def _sliding_settings(part: Config) -> Config:
    """Step 3.5 keeps the heads of its sliding layers in a part of their own."""
    return part.part("attention_other_setting") or part


def _has_output_gate(part: Config) -> bool:
    gated = str(part.get("model_type", "")).startswith(("qwen3_next", "qwen3_5"))
    return bool(part.get("attn_output_gate", gated))


def _latent(part: Config, layers: int, hidden: int) -> AttentionLayers:
    heads = part.count("num_attention_heads")
    latent = part.count("kv_lora_rank")
    rope = part.optional("qk_rope_head_dim") or 0
    key = part.count("qk_nope_head_dim") + rope
    value = part.count("v_head_dim")
    low_rank = part.optional("q_lora_rank")
    query = hidden * heads * key if low_rank is None else low_rank * (hidden + heads * key)
    keys = hidden * (latent + rope) + latent * heads * (key - rope + value)
    index_heads = part.optional("index_n_heads") or 0
    index_width = part.optional("index_head_dim") or 0
    index = index_heads * index_width * (low_rank or hidden) + hidden * (index_width + index_heads)
    return AttentionLayers(
        kind=KvKind.LATENT,
        layers=layers,
        parameters=query + keys + heads * value * hidden + (index if index_heads else 0),
        kv_values=latent + rope,
        kv_heads=1,
        pair_flops=2.0 * heads * (key + value),
        read_tokens=part.optional("index_topk") if index_heads else None,
        index_bytes=INDEX_KEY_BYTES if index_heads else 0.0,
        index_flops=2.0 * index_heads * index_width,
        replicated_parameters=(
            hidden * ((low_rank or 0) + latent + rope) + (index if index_heads else 0)
        ),
    )


def _linear(part: Config, layers: int, hidden: int) -> AttentionLayers:
    settings = part.part("linear_attn_config") or part
    heads = settings.count("linear_num_value_heads", "linear_num_heads", "num_heads")
    key_heads = settings.optional("linear_num_key_heads") or heads
    key = settings.count("linear_key_head_dim", "linear_head_dim", "head_dim")
    value = settings.optional("linear_value_head_dim") or key
    return AttentionLayers(
        kind=KvKind.LINEAR,
        layers=layers,
        parameters=hidden * (2 * key_heads * key + 3 * heads * value),
        kv_values=0.0,
        kv_heads=heads,
        pair_flops=0.0,
        state_bytes=heads * key * value * STATE_VALUE_BYTES,
    )


def _compressed(part: Config, kind: str, layers: int, hidden: int) -> AttentionLayers:
    """One shared key-value vector per several tokens, projections in two steps (DeepSeek-V4)."""
    rates = part.part("compress_rates")
    if rates is None:
        raise UnreadableConfig("compress_rates: absent, and layer_types has compressed layers")
    rate = rates.count(kind)
    heads, width = part.count("num_attention_heads"), part.count("head_dim")
    low_rank, output_rank = part.count("q_lora_rank"), part.count("o_lora_rank")
    groups = part.optional("o_groups") or 1
    query = low_rank * (hidden + heads * width)
    output = output_rank * (heads * width + groups * hidden)
    sparse = kind == "compressed_sparse_attention"
    return AttentionLayers(
        kind=KvKind.COMPRESSED,
        layers=layers,
        parameters=query + hidden * width + output,
        kv_values=width / rate,
        kv_heads=1,
        pair_flops=4.0 * heads * width / rate,
        read_tokens=(part.optional("index_topk") or 0) * rate or None if sparse else None,
    )
