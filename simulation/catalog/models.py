"""The models that moegate knows by name: the fields of their config.json, and what was published.

The facts are read from the fields by the same code that reads any other config.json; the test of
the catalog compares the totals with the published ones. `base` fields that several models share
are written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from simulation.catalog.deployment import in_format
from simulation.catalog.facts import ModelFacts
from simulation.catalog.hf_config import read_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A model of the catalog.

    Attributes:
        config: the fields of its config.json that decide its size.
        published_total, published_active: parameters, billions, as its vendor states them.
        source: where fields and figures are from; "recalled" marks fields that were not read in a
            published file, but whose total agrees with the published one.
    """

    config: Mapping[str, object]
    published_total: float
    published_active: float
    source: str


_CLASS = "default of its class in transformers 5.19"
_FP8: dict[str, object] = {"quantization_config": {"quant_method": "fp8"}}
_MXFP4: dict[str, object] = {"quantization_config": {"quant_method": "mxfp4"}}

_DEEPSEEK: dict[str, object] = {
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "vocab_size": 129_280,
    "intermediate_size": 18_432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "num_attention_heads": 128,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 163_840,
    **_FP8,
}
_SPARSE: dict[str, object] = {"index_topk": 2048, "index_head_dim": 128, "index_n_heads": 64}
_KIMI: dict[str, object] = {
    **_DEEPSEEK,
    "vocab_size": 163_840,
    "n_routed_experts": 384,
    "first_k_dense_replace": 1,
    "num_attention_heads": 64,
    "max_position_embeddings": 131_072,
}
_INT4 = {"quant_method": "compressed-tensors", "config_groups": {
    "group_0": {"weights": {"num_bits": 4, "group_size": 32}}}}  # fmt: skip
_GLM_4_5: dict[str, object] = {
    "num_hidden_layers": 92,
    "hidden_size": 5120,
    "vocab_size": 151_552,
    "intermediate_size": 12_288,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 160,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
}
_GPT_OSS: dict[str, object] = {
    "hidden_size": 2880,
    "vocab_size": 201_088,
    "intermediate_size": 2880,
    "num_experts_per_tok": 4,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "max_position_embeddings": 131_072,
    **_MXFP4,
}
_QWEN3: dict[str, object] = {
    "vocab_size": 151_936,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "head_dim": 128,
    "num_key_value_heads": 4,
    "use_sliding_window": False,
    "max_position_embeddings": 40_960,
}
_LLAMA_4: dict[str, object] = {
    "model_type": "llama4_text",
    "num_hidden_layers": 48,
    "hidden_size": 5120,
    "vocab_size": 202_048,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16_384,
    "num_experts_per_tok": 1,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "attention_chunk_size": 8192,
}

KNOWN: dict[str, Known] = {
    "DeepSeek-V3": Known(
        config=_DEEPSEEK,
        published_total=671,
        published_active=37,
        source=f"{_CLASS}; DeepSeek-V3 report. R1 is the same",
    ),
    "DeepSeek-V3.2": Known(
        config={**_DEEPSEEK, **_SPARSE},
        published_total=671,
        published_active=37,
        source=f"{_CLASS}; DeepSeek-V3.2 report",
    ),
    "Kimi-K2": Known(
        config=_KIMI,
        published_total=1040,
        published_active=32,
        source="Kimi-K2 model card; low ranks of attention as in DeepSeek-V3",
    ),
    "Kimi-K2.5": Known(
        config={**_KIMI, "max_position_embeddings": 262_144, "quantization_config": _INT4},
        published_total=1040,
        published_active=32,
        source="as Kimi-K2, its experts published in INT4 with groups of 32",
    ),
    "GLM-4.5": Known(
        config=_GLM_4_5,
        published_total=355,
        published_active=32,
        source="training recipe glm4.5-355B-A32B of slime; model card. Published in BF16 and FP8",
    ),
    "GLM-4.5-Air": Known(
        config={
            **_GLM_4_5,
            "num_hidden_layers": 46,
            "hidden_size": 4096,
            "intermediate_size": 10_944,
            "moe_intermediate_size": 1408,
            "n_routed_experts": 128,
            "first_k_dense_replace": 1,
        },
        published_total=106,
        published_active=12,
        source=f"{_CLASS}; model card",
    ),
    "GLM-5": Known(
        config={
            **_DEEPSEEK,
            **_SPARSE,
            "num_hidden_layers": 78,
            "hidden_size": 6144,
            "vocab_size": 154_880,
            "intermediate_size": 12_288,
            "num_attention_heads": 64,
            "q_lora_rank": 2048,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "index_n_heads": 32,
            "max_position_embeddings": 202_752,
        },
        published_total=744,
        published_active=40,
        source=f"{_CLASS}; model card",
    ),
    "MiniMax-M2.5": Known(
        config={
            "num_hidden_layers": 62,
            "hidden_size": 3072,
            "vocab_size": 200_064,
            "intermediate_size": 1536,
            "num_local_experts": 256,
            "num_experts_per_tok": 8,
            "num_attention_heads": 48,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 196_608,
            **_FP8,
        },
        published_total=230,
        published_active=10,
        source=f"{_CLASS}; model card. M2 and M2.1 are the same",
    ),
    "Qwen3-30B-A3B": Known(
        config={
            **_QWEN3,
            "num_hidden_layers": 48,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_attention_heads": 32,
        },
        published_total=30.5,
        published_active=3.3,
        source=f"{_CLASS}, layers recalled; model card",
    ),
    "Qwen3-235B-A22B": Known(
        config={
            **_QWEN3,
            "num_hidden_layers": 94,
            "hidden_size": 4096,
            "intermediate_size": 12_288,
            "moe_intermediate_size": 1536,
            "num_attention_heads": 64,
        },
        published_total=235,
        published_active=22,
        source="recalled; model card. Published in BF16 and FP8",
    ),
    "gpt-oss-20b": Known(
        config={
            **_GPT_OSS,
            "num_hidden_layers": 24,
            "num_local_experts": 32,
            "layer_types": ["sliding_attention", "full_attention"] * 12,
        },
        published_total=20.9,
        published_active=3.6,
        source="recalled; model card",
    ),
    "gpt-oss-120b": Known(
        config={
            **_GPT_OSS,
            "num_hidden_layers": 36,
            "num_local_experts": 128,
            "layer_types": ["sliding_attention", "full_attention"] * 18,
        },
        published_total=116.8,
        published_active=5.1,
        source=f"{_CLASS}; model card",
    ),
    "Mixtral-8x7B": Known(
        config={
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "vocab_size": 32_000,
            "intermediate_size": 14_336,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32_768,
        },
        published_total=46.7,
        published_active=12.9,
        source=f"{_CLASS}; Mixtral report",
    ),
    "Llama-4-Scout": Known(
        config={**_LLAMA_4, "num_local_experts": 16, "max_position_embeddings": 10_485_760},
        published_total=109,
        published_active=17,
        source=f"{_CLASS}; model card",
    ),
    "Llama-4-Maverick": Known(
        config={
            **_LLAMA_4,
            "num_local_experts": 128,
            "interleave_moe_layer_step": 2,
            "max_position_embeddings": 1_048_576,
        },
        published_total=400,
        published_active=17,
        source="as Scout, experts in every second layer recalled; model card",
    ),
    "Step-3.5-Flash": Known(
        config={
            "num_hidden_layers": 45,
            "hidden_size": 4096,
            "vocab_size": 128_815,
            "intermediate_size": 11_264,
            "moe_intermediate_size": 1280,
            "share_expert_dim": 1280,
            "moe_num_experts": 288,
            "moe_top_k": 8,
            "first_k_dense_replace": 3,
            "num_attention_heads": 64,
            "num_attention_groups": 8,
            "head_dim": 128,
            "sliding_window": 512,
            "layer_types": (["full_attention"] + ["sliding_attention"] * 3) * 12,
            "max_position_embeddings": 262_144,
            **_FP8,
        },
        published_total=196,
        published_active=11,
        source=f"{_CLASS}; model card (3 sliding layers to a full one; window recalled)",
    ),
    "MiMo-V2-Flash": Known(
        config={
            "num_hidden_layers": 48,
            "hidden_size": 4096,
            "vocab_size": 152_576,
            "intermediate_size": 16_384,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 1,
            "num_attention_heads": 64,
            "num_key_value_heads": 4,
            "swa_num_key_value_heads": 8,
            "head_dim": 192,
            "v_head_dim": 128,
            "sliding_window": 128,
            "layer_types": ["full_attention"] * 9 + ["sliding_attention"] * 39,
            "max_position_embeddings": 262_144,
            **_FP8,
        },
        published_total=309,
        published_active=15,
        source=f"{_CLASS}; model card (sliding layers have 8 heads of keys; order does not matter)",
    ),
}
"""Models by name, as their vendors write it."""


@cache
def model_facts(name: str) -> ModelFacts:
    """Facts of a model of the catalog. Raises KeyError."""
    return read_config(KNOWN[name].config, name)


def find_model(name: str) -> ModelFacts | None:
    """The catalog's model behind a name as it is written: with an owner, a suffix, any case.

    deepseek-ai/DeepSeek-R1-0528 and Qwen/Qwen3-30B-A3B-Instruct-2507-FP8 are found; where a suffix
    names the format of the weights it holds, else the one of the catalog.
    """
    wanted = name.rsplit("/", 1)[-1].lower()
    known = _known_name(wanted)
    if known is None:
        return None
    facts = model_facts(known)
    for suffix, weights in _FORMAT_SUFFIXES.items():
        if suffix in wanted.removeprefix(known.lower()):
            return in_format(facts, weights)
    return facts


def _known_name(wanted: str) -> str | None:
    for alias, known in _ALIASES.items():
        if wanted.startswith(alias):
            return known
    # The longest name that fits: DeepSeek-V3.2-Exp is not DeepSeek-V3.
    return max((name for name in KNOWN if wanted.startswith(name.lower())), key=len, default=None)


_FORMAT_SUFFIXES = {
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "fp4": "nvfp4",
    "fp8": "fp8",
    "bf16": "bf16",
    "awq": "int4",
    "gptq": "int4",
    "int4": "int4",
    "w4a16": "int4",
}
"""Parts of names behind the model's own, and the formats of weights that they mean."""
_ALIASES: dict[str, str | None] = {
    "deepseek-r1-distill": None,  # dense models
    "deepseek-r1": "DeepSeek-V3",
    "deepseek-v3.1": "DeepSeek-V3",
    "minimax-m2": "MiniMax-M2.5",
    "kimi-k2.": "Kimi-K2.5",
    "kimi-k2-thinking": "Kimi-K2.5",
    "glm-4.6": "GLM-4.5",
    "mixtral-8x7b": "Mixtral-8x7B",
    "llama-4-scout": "Llama-4-Scout",
    "llama-4-maverick": "Llama-4-Maverick",
}
"""Beginnings of names of models that are built like one of the catalog."""
