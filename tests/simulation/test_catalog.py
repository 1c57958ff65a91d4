"""Facts of models and GPUs against what was published."""

from __future__ import annotations

import pytest

from simulation.catalog.deployment import (
    LEAST_KV_TOKENS,
    in_format,
    kv_capacity,
    smallest_deployment,
    usual_parallelism,
)
from simulation.catalog.facts import KvKind
from simulation.catalog.gpus import GPUS, find_gpu
from simulation.catalog.hf_config import UnreadableConfig, read_config
from simulation.catalog.models import KNOWN, find_model, model_facts
from simulation.catalog.prior import Parallelism, prior


@pytest.mark.parametrize("name", KNOWN)
def test_the_parameters_add_up_to_the_published_total(name: str) -> None:
    facts, known = model_facts(name), KNOWN[name]
    assert facts.total_parameters / 1e9 == pytest.approx(known.published_total, rel=0.015)
    # Active parameters are published as whole billions, with and without embeddings.
    assert facts.active_parameters / 1e9 == pytest.approx(known.published_active, rel=0.08)
    assert known.source


@pytest.mark.parametrize(
    ("name", "growing", "late"),
    [
        ("DeepSeek-V3", 70_272, 70_272),
        ("Kimi-K2.5", 70_272, 70_272),
        ("GLM-5", 89_856, 89_856),
        ("GLM-4.5", 376_832, 376_832),
        ("MiniMax-M2.5", 253_952, 253_952),
        ("Qwen3-235B-A22B", 192_512, 192_512),
        ("gpt-oss-120b", 73_728, 36_864),
        ("gpt-oss-20b", 49_152, 24_576),
        ("Llama-4-Scout", 196_608, 49_152),
        ("Step-3.5-Flash", 184_320, 49_152),
    ],
)
def test_bytes_of_a_kv_token(name: str, growing: int, late: int) -> None:
    facts = model_facts(name)
    assert facts.kv_bytes_per_token() == growing
    assert facts.kv_bytes_per_late_token() == late
    assert facts.kv_bytes_per_token(1.0) == growing / 2


def test_windows_bound_the_cache_and_a_sparse_index_what_is_read() -> None:
    mimo = model_facts("MiMo-V2-Flash")
    assert mimo.kv_bytes_per_late_token() == 23_040
    added = mimo.sequence_bytes(9000) - mimo.sequence_bytes(8000)
    assert added == pytest.approx(1000 * 23_040)
    sparse, dense = model_facts("DeepSeek-V3.2"), model_facts("DeepSeek-V3")
    assert sparse.step_read_bytes(100_000) < dense.step_read_bytes(100_000) / 5
    assert sparse.sequence_bytes(100_000) > dense.sequence_bytes(100_000)


def test_tensor_parallelism_splits_heads_and_repeats_a_latent() -> None:
    gqa, mla = model_facts("Qwen3-235B-A22B"), model_facts("Kimi-K2.5")
    assert gqa.sequence_bytes(1000, tensor_parallel=2) == gqa.sequence_bytes(1000) / 2
    assert gqa.sequence_bytes(1000, tensor_parallel=8) == gqa.sequence_bytes(1000) / 4
    assert mla.sequence_bytes(1000, tensor_parallel=8) == mla.sequence_bytes(1000)


@pytest.mark.parametrize(
    ("model", "weights", "gpu", "gpus"),
    [
        ("DeepSeek-V3", None, "H200", 8),
        ("DeepSeek-V3", None, "H100", 16),
        ("Kimi-K2", None, "H200", 16),
        ("Kimi-K2.5", None, "H200", 8),
        ("Kimi-K2.5", "nvfp4", "B200", 4),
        ("GLM-4.5", "fp8", "H100", 8),
        ("MiniMax-M2.5", None, "H100", 4),
        ("MiniMax-M2.5", "nvfp4", "B200", 1),
        ("Qwen3-235B-A22B", "fp8", "H100", 4),
        ("Qwen3-30B-A3B", None, "H100", 1),
        ("gpt-oss-120b", None, "H100", 1),
        ("Mixtral-8x7B", None, "H100", 2),
        ("Llama-4-Scout", "bf16", "H100", 4),
        ("Llama-4-Maverick", "fp8", "H100", 8),
    ],
)
def test_the_smallest_deployments_are_the_published_ones(
    model: str, weights: str | None, gpu: str, gpus: int
) -> None:
    facts = model_facts(model) if weights is None else in_format(model_facts(model), weights)
    found = smallest_deployment(facts, GPUS[gpu])
    assert found is not None
    spread, kv = found
    assert spread.gpus == gpus
    assert kv.least <= kv.tokens <= kv.most
    assert kv.tokens >= LEAST_KV_TOKENS


def test_what_does_not_fit_has_no_room() -> None:
    facts = model_facts("Kimi-K2")
    one = usual_parallelism(GPUS["H100"], 1)
    assert kv_capacity(facts, GPUS["H100"], one).tokens == 0


def test_names_as_they_are_written() -> None:
    written = {
        "Qwen/Qwen3-30B-A3B-Instruct-2507": "Qwen3-30B-A3B",
        "deepseek-ai/DeepSeek-R1-0528": "DeepSeek-V3",
        "deepseek-ai/DeepSeek-V3.2-Exp": "DeepSeek-V3.2",
        "openai/gpt-oss-120b": "gpt-oss-120b",
        "zai-org/GLM-4.5-Air-FP8": "GLM-4.5-Air",
        "MiniMaxAI/MiniMax-M2": "MiniMax-M2.5",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct": "Llama-4-Scout",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": None,
        "my-model": None,
    }
    for name, known in written.items():
        found = find_model(name)
        assert (found.name if found else None) == known, name
    gpus = {
        "H100-80GB": "H100",
        "NVIDIA H100 NVL": "H100-NVL",
        "NVIDIA-H20-3e": "H20-3E",
        "nvidia_b200": "B200",
        "mi300x": "MI300X",
        "AMD-Instinct-MI325X": "MI325X",
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA-A100-SXM4-40GB": "A100-40GB",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX-PRO-6000",
        "RTX 6000 Ada": None,
        "T4": None,
    }
    for name, gpu in gpus.items():
        found_gpu = find_gpu(name)
        assert (found_gpu.name if found_gpu else None) == gpu, name


@pytest.mark.parametrize(
    ("name", "expert_bytes", "widened"),
    [
        ("Qwen/Qwen3-235B-A22B", 2.0, False),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", 1.0, False),
        ("nvidia/DeepSeek-R1-0528-NVFP4", 0.5625, False),
        ("cpatonn/GLM-4.5-Air-AWQ-4bit", 0.515625, True),
        ("openai/gpt-oss-120b", 0.53125, False),
    ],
)
def test_a_name_may_tell_the_format_of_the_weights(
    name: str, expert_bytes: float, widened: bool
) -> None:
    facts = find_model(name)
    assert facts is not None
    assert (facts.expert_bytes, facts.widened_experts) == (expert_bytes, widened)


def test_every_gpu_is_faster_on_narrower_numbers_and_names_its_source() -> None:
    for gpu in GPUS.values():
        has_fp8 = not gpu.name.startswith(("A100", "A800"))
        assert (gpu.bf16_flops < gpu.fp8_flops) is has_fp8
        assert gpu.bf16_flops <= gpu.fp8_flops <= gpu.fp4_flops
        assert gpu.flops(2.0) == gpu.bf16_flops
        assert gpu.flops(0.5625) == gpu.fp4_flops
        assert gpu.source


def test_newer_kinds_of_layers_are_read() -> None:
    linear = read_config(
        {
            "text_config": {
                "model_type": "qwen3_5_moe_text",
                "num_hidden_layers": 40,
                "hidden_size": 2048,
                "vocab_size": 248_320,
                "num_attention_heads": 16,
                "num_key_value_heads": 2,
                "head_dim": 256,
                "linear_key_head_dim": 128,
                "linear_value_head_dim": 128,
                "linear_num_key_heads": 16,
                "linear_num_value_heads": 32,
                "moe_intermediate_size": 512,
                "shared_expert_intermediate_size": 512,
                "num_experts_per_tok": 8,
                "num_experts": 256,
                "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 10,
            }
        },
        "Qwen3.5-35B-A3B",
    )
    assert linear.total_parameters / 1e9 == pytest.approx(35, rel=0.015)
    assert linear.kv_bytes_per_token() == 10 * 2 * 2 * 256 * 2
    assert {kind.kind for kind in linear.attention} == {KvKind.LINEAR, KvKind.FULL}
    assert linear.sequence_bytes(0) == 30 * 32 * 128 * 128 * 4


def test_a_dense_model_is_one_expert_that_is_always_touched() -> None:
    fields = {**KNOWN["Mixtral-8x7B"].config, "num_local_experts": None}
    facts = read_config(fields, "dense")
    assert facts.total_parameters / 1e9 == pytest.approx(7.2, rel=0.02)
    model = prior(facts, GPUS["H100"])
    assert model.distinct_experts(1) == model.distinct_experts(64) == 1
    assert model.expert_s == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size: absent"),
        ({"hidden_size": "large"}, "hidden_size: 'large' is not a number"),
        ({"hidden_size": 0}, "hidden_size: 0 is not"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok or"),
        ({"layer_types": ["state_space"] * 61}, "'state_space' is not known"),
        ({"quantization_config": {"quant_method": "magic"}}, "magic"),
        ({"quantization_config": None, "dtype": "int3"}, "dtype: 'int3'"),
    ],
)
def test_what_cannot_be_read_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UnreadableConfig, match=message):
        read_config({**KNOWN["DeepSeek-V3"].config, **change}, "broken")


def test_the_prior_of_more_gpus_reads_faster_and_waits_more() -> None:
    facts = model_facts("Qwen3-235B-A22B")
    four = prior(facts, GPUS["H200"], Parallelism(tensor=4))
    eight = prior(facts, GPUS["H200"], Parallelism(tensor=8))
    assert eight.expert_s == four.expert_s / 2
    assert eight.kv_token_s == four.kv_token_s  # four heads of keys: no further split
    ranks = prior(facts, GPUS["H200"], Parallelism(tensor=4, data=2, expert_parallel=True))
    assert ranks.expert_s == eight.expert_s
    assert ranks.ranks == 2
    # Each rank reads its own half of a long cache; short ones are lost in the doubled weights.
    assert ranks.decode_step_s(64, 1_000_000) < eight.decode_step_s(64, 1_000_000)
    assert ranks.decode_step_s(16, 32_000) > eight.decode_step_s(16, 32_000)
    with pytest.raises(ValueError, match="at least one rank"):
        Parallelism(tensor=0)
