"""KV caches of real vLLM servers, from logs in public issues, that `memory.py` is compared with.

Rows of `REAL_SERVERS` are those that the constants were set on or chosen by; no constant was set on
those of `UNSEEN_SERVERS`. Flags that an issue does not quote are vLLM's defaults of that version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulation.catalog.deployment import in_format
from simulation.catalog.facts import ModelFacts
from simulation.catalog.gpus import GIB, GPUS
from simulation.catalog.hf_config import read_config
from simulation.catalog.memory import (
    MARLIN_TILE,
    SAMPLER_BYTES,
    SORTING_SAMPLER_BYTES,
    GpuMemory,
    ServerMemory,
    gpu_memory,
)
from simulation.catalog.models import model_facts
from simulation.catalog.prior import Parallelism


@dataclass(frozen=True, slots=True, kw_only=True)
class RealServer:
    """What a server logged.

    Attributes:
        settings: flags and version in words.
        kv_gib: "Available KV cache memory" of one GPU; below 0 where the server did not start.
    """

    model: ModelFacts
    gpu: str
    parallelism: Parallelism
    server: ServerMemory
    settings: str
    kv_gib: float
    source: str

    @property
    def predicted(self) -> GpuMemory:
        """Memory of one GPU by `gpu_memory`."""
        return gpu_memory(self.model, GPUS[self.gpu], self.parallelism, self.server)

    @property
    def predicted_kv_gib(self) -> float:
        """What the log should say."""
        return self.predicted.kv_bytes / GIB

    @property
    def miss(self) -> float:
        """Predicted minus real, as a share of the real."""
        return (self.predicted_kv_gib - self.kv_gib) / abs(self.kv_gib)


_SORTING = ServerMemory(memory_share=0.9, sampler_bytes=SORTING_SAMPLER_BYTES, graph_bytes=0.0)
_MARLIN = replace(_SORTING, mxfp4_tile=MARLIN_TILE)
_SINGLE, _FOUR, _EIGHT = Parallelism(), Parallelism(tensor=4), Parallelism(tensor=8)
_GLM_TOKEN_BYTES = model_facts("GLM-5").sequence_bytes(1.0)
_QWEN3_CODER_480B = read_config(
    {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 62,
        "hidden_size": 6144,
        "vocab_size": 151_936,
        "intermediate_size": 8192,
        "moe_intermediate_size": 2560,
        "num_experts": 160,
        "num_experts_per_tok": 8,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "torch_dtype": "bfloat16",
    },
    "Qwen3-Coder-480B-A35B",
)
_CODER_RANKS = Parallelism(data=8, expert_parallel=True)

REAL_SERVERS = (
    RealServer(
        model=model_facts("Kimi-K2.5"),
        gpu="H200",
        parallelism=_EIGHT,
        server=_SORTING,
        settings="Kimi-K2-Thinking INT4, 0.11, 0.9",
        kv_gib=46.80,
        source="vllm-project/recipes 115",
    ),
    *(
        RealServer(
            model=in_format(model_facts("GLM-5"), "fp8"),
            gpu="H200",
            parallelism=_EIGHT,
            server=ServerMemory(),
            settings=f"GLM-5.1-FP8, {build}, flags not known: 0.92 taken",
            kv_gib=tokens * _GLM_TOKEN_BYTES / GIB,
            source="logs in public issues of vLLM",
        )
        for build, tokens in (("one build", 343_744), ("another build", 373_696))
    ),
    RealServer(
        model=in_format(model_facts("Qwen3-235B-A22B"), "fp8"),
        gpu="H100",
        parallelism=_FOUR,
        server=_SORTING,
        settings="FP8, of July 2025, 0.9",
        kv_gib=8.11,
        source="vllm-project/vllm 21348",
    ),
    RealServer(
        model=model_facts("gpt-oss-20b"),
        gpu="H100",
        parallelism=_SINGLE,
        server=_MARLIN,
        settings="0.9",
        kv_gib=50.28,
        source="logs in public issues of vLLM",
    ),
    RealServer(
        model=model_facts("gpt-oss-120b"),
        gpu="H100",
        parallelism=_SINGLE,
        server=replace(_SORTING, sampler_bytes=SAMPLER_BYTES),
        settings="Triton kernels, sampler that does not sort, 0.9",
        kv_gib=3.33,
        source="logs in public issues of vLLM",
    ),
    RealServer(
        model=model_facts("gpt-oss-120b"),
        gpu="H100",
        parallelism=_SINGLE,
        server=_MARLIN,
        settings="Marlin kernels, 0.10.1, 0.9, 8,192 batched tokens: does not start",
        kv_gib=-2.14,
        source="vllm-project/vllm 23278",
    ),
)

UNSEEN_SERVERS = (
    RealServer(
        model=model_facts("gpt-oss-120b"),
        gpu="H100",
        parallelism=_SINGLE,
        server=replace(_MARLIN, memory_share=0.95, batched_tokens=1024),
        settings="0.11, 0.95, 1,024 batched tokens",
        kv_gib=1.71,
        source="vllm-project/vllm 27508",
    ),
    *(
        RealServer(
            model=in_format(_QWEN3_CODER_480B, "fp8"),
            gpu="H20-3E",
            parallelism=_CODER_RANKS,
            server=replace(_SORTING, memory_share=share),
            settings=f"FP8, 8 ranks with expert parallelism, 0.10.1, {share:g}",
            kv_gib=kv_gib,
            source="vllm-project/recipes 12",
        )
        for share, kv_gib in ((0.9, 48.66), (0.95, 55.65))
    ),
    RealServer(
        model=in_format(model_facts("GLM-5"), "fp8"),
        gpu="H200",
        parallelism=_EIGHT,
        server=ServerMemory(),
        settings="GLM-5.3-FP8 (same sizes; 94.46 GiB of weights logged), 0.28: 0.92",
        kv_gib=25.94,
        source="vllm-project/recipes 893",
    ),
)
