"""Published measurements of vLLM servers that the step model is compared with.

Serving benchmarks of InferenceX (posts of 26 May 2026): vLLM, random prompts of 80 to 100 % of
8,192 tokens, outputs of 80 to 100 % of 1,024, prefix caching off, a fixed number of clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulation.catalog.deployment import in_format
from simulation.catalog.facts import ModelFacts
from simulation.catalog.models import model_facts
from simulation.planner.operating import Lengths

INFERENCEX_8K_1K = Lengths(prompt_tokens=0.9 * 8192, cached_tokens=0.0, output_tokens=0.9 * 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class TpotTable:
    """Mean time per output token over concurrency.

    `points`: milliseconds by number of clients.
    """

    name: str
    model: ModelFacts
    gpu: str
    tensor_parallel: int
    points: Mapping[int, float]
    lengths: Lengths = INFERENCEX_8K_1K


TPOT_TABLES = (
    TpotTable(
        name="Kimi-K2.5 INT4, 8 x B200",
        model=model_facts("Kimi-K2.5"),
        gpu="B200",
        tensor_parallel=8,
        points={4: 9.58, 8: 12.33, 16: 16.89, 32: 24.70, 64: 38.45},
    ),
    TpotTable(
        name="Kimi-K2.5 NVFP4, 4 x B200",
        model=in_format(model_facts("Kimi-K2.5"), "nvfp4"),
        gpu="B200",
        tensor_parallel=4,
        points={4: 9.00, 8: 11.03, 16: 14.84, 32: 21.35, 64: 31.07},
    ),
    TpotTable(
        name="MiniMax-M2.5 FP8, 8 x H100",
        model=model_facts("MiniMax-M2.5"),
        gpu="H100",
        tensor_parallel=8,
        points={4: 9.01, 8: 11.15, 16: 14.47, 32: 20.12, 64: 30.31, 128: 47.19},
    ),
)
"""The tables that the constants of the prior were set on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputRow:
    """Tokens per second of one replica at a number of clients, of a kind that `kind` names.

    Attributes:
        kind: "total" (prompt and output) or "output".
        note: what is not as the step model assumes.
    """

    model: ModelFacts
    gpu: str
    tensor_parallel: int
    clients: int
    lengths: Lengths
    tokens_per_s: float
    kind: str
    source: str
    note: str = ""


_VULTR = Lengths(prompt_tokens=2048, cached_tokens=0, output_tokens=512)
_VULTR_SOURCE = "Vultr inference cookbook, March 2026"
_X_SOURCE = "InferenceX, May 2026"

UNSEEN_ROWS = (
    *(
        ThroughputRow(
            model=model_facts("MiniMax-M2.5"),
            gpu="B200",
            tensor_parallel=4,
            clients=clients,
            lengths=_VULTR,
            tokens_per_s=rate,
            kind="output",
            source=_VULTR_SOURCE,
            note="stock vLLM 0.12 to 0.16",
        )
        for clients, rate in ((1, 87.0), (8, 581.0), (16, 1057.0), (32, 1636.0))
    ),
    *(
        ThroughputRow(
            model=model,
            gpu=gpu,
            tensor_parallel=8,
            clients=clients,
            lengths=INFERENCEX_8K_1K,
            tokens_per_s=8 * rate,
            kind="total",
            source=_X_SOURCE,
            note=note,
        )
        for model, gpu, clients, rate, note in (
            (model_facts("Kimi-K2.5"), "H200", 64, 1174.5, ""),
            (model_facts("DeepSeek-V3"), "H200", 256, 2453.9, "TensorRT-LLM, not vLLM"),
        )
    ),
)
"""Measurements that no constant was set on."""
