"""Published measurements of vLLM servers that the step model is compared with.

Serving benchmarks of InferenceX (posts of 26 May 2026): vLLM, random prompts of 80 to 100 % of
8,192 tokens, outputs of 80 to 100 % of 1,024, prefix caching off, a fixed number of clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import StepModel
from scheduler.step_time.step_windows import Window, WindowSource
from simulation.catalog.deployment import in_format
from simulation.catalog.facts import ModelFacts
from simulation.catalog.gpus import GPUS
from simulation.catalog.models import model_facts
from simulation.catalog.prior import Parallelism, prior
from simulation.planner.operating import Lengths, closed_loop_tpot_s

WINDOW_S = 60.0
LAPS = 10
"""Number of passes of the fit over the points of a table."""
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
        note: differences from the assumptions of the step model.
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


def prior_of(table: TpotTable) -> StepModel:
    """The prior of a table's server."""
    return prior(
        table.model,
        GPUS[table.gpu],
        Parallelism(tensor=table.tensor_parallel),
        context_tokens=table.lengths.resident_tokens,
    )


def left_out(table: TpotTable, clients: int, start: StepModel | None = None) -> StepFit:
    """The online fit after windows at all points of a table but the one with `clients`.

    `start`: instead of the table's prior.
    """
    fit = StepFit(start or prior_of(table))
    second = 0.0
    for _ in range(LAPS):
        for others, tpot_ms in table.points.items():
            if others != clients:
                fit.observe(_window(table, others, tpot_ms / 1e3, second))
                second += 1.0
    return fit


def _window(table: TpotTable, clients: int, tpot_s: float, start_s: float) -> Window:
    """Measurements of a server at a point of the table over WINDOW_S, scaled to whole prompts."""
    lengths = table.lengths
    prompts = round(WINDOW_S * clients / (lengths.output_tokens * tpot_s))
    return Window(
        start_s=start_s,
        end_s=start_s + prompts * lengths.output_tokens * tpot_s / clients,
        source=WindowSource.ENGINE,
        step_s=tpot_s,
        gaps=1000,
        batch=float(clients),
        kv_tokens=clients * lengths.resident_tokens,
        prompts=prompts,
        prompt_tokens=round(prompts * lengths.prompt_tokens),
        uncached_tokens=round(prompts * lengths.prompt_tokens),
    )


def predicted_throughput(row: ThroughputRow) -> float:
    """Tokens per second, of the row's kind, by the prior alone."""
    lengths = row.lengths
    model = prior(
        row.model,
        GPUS[row.gpu],
        Parallelism(tensor=row.tensor_parallel),
        context_tokens=lengths.resident_tokens,
    )
    answer_s = lengths.output_tokens * closed_loop_tpot_s(model, lengths, row.clients)
    request_s = model.prefill_time_s(lengths.prompt_tokens, lengths.prompt_tokens) + answer_s
    tokens = lengths.output_tokens
    if row.kind == "total":
        tokens += lengths.prompt_tokens
    return row.clients * tokens / request_s
