"""`ModelFacts` from the config.json of a model as Hugging Face publishes it.

Vendors name the same thing differently; what decides is which fields are there, not the type of
the model, so that a new model of a known build needs no change here. An unreadable field is
an error that names it, because a wrong figure is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from simulation.catalog.facts import ModelFacts
from simulation.catalog.hf_attention import attention_layers
from simulation.catalog.hf_fields import Config, UnreadableConfig
from simulation.catalog.hf_weights import weight_widths

GATED = 3
"""Matrices of a gated feed-forward part: gate, up, down."""


def read_config(config: Mapping[str, object], name: str) -> ModelFacts:
    """Facts of the model that `config` (the parsed config.json) describes.

    Raises UnreadableConfig. Of a model with several parts the language model is read.
    """
    whole = Config(config)
    part = whole.part("text_config") or whole.part("language_config") or whole
    layers = part.count("num_hidden_layers")
    hidden = part.count("hidden_size")
    experts = part.optional(
        "n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"
    )
    moe_layers = _moe_layers(part, layers) if experts else 0
    expert_width = part.optional("moe_intermediate_size") or part.count("intermediate_size")
    widths = weight_widths(whole, part)
    return ModelFacts(
        name=name,
        hidden=hidden,
        vocabulary=part.count("vocab_size"),
        attention=attention_layers(part, layers, hidden),
        moe_layers=moe_layers,
        dense_layers=layers - moe_layers,
        experts=experts or 1,
        experts_per_token=(
            part.count(
                *("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk"),
            )
            if experts
            else 1
        ),
        expert_parameters=GATED * hidden * expert_width if moe_layers else 0,
        shared_parameters=GATED * hidden * _shared_width(part, expert_width) if moe_layers else 0,
        dense_parameters=GATED * hidden * _dense_width(part) if moe_layers < layers else 0,
        tied_embeddings=bool(part.get("tie_word_embeddings", False)),
        context_tokens=part.optional("max_position_embeddings", "model_max_length", "max_seq_len"),
        expert_bytes=widths.experts,
        weight_bytes=widths.others,
        widened_experts=widths.widened_experts,
    )


def _moe_layers(part: Config, layers: int) -> int:
    """How many layers have experts. The fields are looked at from the most to the least exact."""
    kinds = part.get("mlp_layer_types")
    if isinstance(kinds, Sequence) and not isinstance(kinds, str):
        return sum(kind != "dense" for kind in kinds[:layers])
    listed = part.get("moe_layers_enum")
    if isinstance(listed, str):
        return len([number for number in listed.split(",") if number.strip()])
    listed = part.get("moe_layers")
    if isinstance(listed, Sequence) and not isinstance(listed, str) and listed:
        return len(listed)
    every = part.get("moe_layer_freq")
    if isinstance(every, Sequence) and not isinstance(every, str):
        return sum(bool(flag) for flag in every[:layers])
    step = part.optional("interleave_moe_layer_step", "decoder_sparse_step") or 1
    only_dense = part.get("mlp_only_layers")
    dense = set(only_dense) if isinstance(only_dense, Iterable) else set()
    first = part.optional("first_k_dense_replace") or 0
    return sum(
        number > first and number % step == 0 and number - 1 not in dense
        for _, number in pairwise(range(layers + 1))
    )


def _shared_width(part: Config, expert_width: int) -> int:
    """Width of the shared experts together; 0 without any."""
    width = part.optional(
        "shared_expert_intermediate_size", "share_expert_dim", "shared_intermediate_size"
    )
    if width is not None:
        return width
    shared = part.optional("n_shared_experts", "num_shared_experts")
    if shared is None and str(part.get("model_type", "")).startswith("llama4"):
        shared = 1  # Llama 4 has one shared expert in each MoE layer and no field for it
    return (shared or 0) * expert_width


def _dense_width(part: Config) -> int:
    return part.count("intermediate_size_mlp", "dense_intermediate_size", "intermediate_size")


__all__ = ["UnreadableConfig", "read_config"]
