"""Published measurements of vLLM servers that the step model is compared with.

Serving benchmarks of InferenceX (posts of 26 May 2026): vLLM, random prompts of 80 to 100 % of
8,192 tokens, outputs of 80 to 100 % of 1,024, prefix caching off, a fixed number of clients. AMD's
of April 2026 (vLLM 0.18).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import StepModel
from scheduler.step_time.step_windows import Window, WindowSource
from simulation.catalog.deployment import in_format, kv_capacity
from simulation.catalog.facts import BF16_BYTES, ModelFacts
from simulation.catalog.gpus import GPUS
from simulation.catalog.memory import ServerMemory
from simulation.catalog.models import model_facts
from simulation.catalog.prior import Parallelism, prior
from simulation.planner.operating import Lengths, closed_loop_batch, closed_loop_tpot_s

WINDOW_S = 60.0
LAPS = 10
"""Number of passes of the fit over the points of a table."""
INFERENCEX_8K_1K = Lengths(prompt_tokens=0.9 * 8192, cached_tokens=0.0, output_tokens=0.9 * 1024)


FP8_BYTES = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TpotTable:
    """Mean time per output token over concurrency.

    Attributes:
        points: milliseconds by number of clients.
        kv_value_bytes: of one number in the KV cache (--kv-cache-dtype).
        memory_share: --gpu-memory-utilization.
    """

    name: str
    model: ModelFacts
    gpu: str
    tensor_parallel: int
    points: Mapping[int, float]
    kv_value_bytes: float = BF16_BYTES
    memory_share: float = 0.9
    lengths: Lengths = INFERENCEX_8K_1K

    @property
    def parallelism(self) -> Parallelism:
        """Tensor parallelism over all its GPUs."""
        return Parallelism(tensor=self.tensor_parallel)

    @property
    def kv_tokens(self) -> int:
        """KV cache of the server, predicted; clients beyond it wait."""
        return kv_capacity(
            self.model,
            GPUS[self.gpu],
            self.parallelism,
            server=ServerMemory(memory_share=self.memory_share),
            kv_value_bytes=self.kv_value_bytes,
            context_tokens=self.lengths.resident_tokens,
        ).tokens

    def tpot_ms(self, model: StepModel, clients: float) -> float:
        """Predicted by a step model of the server, milliseconds."""
        return 1e3 * closed_loop_tpot_s(model, self.lengths, clients, self.kv_tokens)


TPOT_TABLES = (
    TpotTable(
        name="Kimi-K2.5 INT4, 8 x H200",
        model=model_facts("Kimi-K2.5"),
        gpu="H200",
        tensor_parallel=8,
        memory_share=0.95,
        points={4: 10.97, 8: 14.23, 16: 21.44, 32: 34.65, 64: 59.98},
    ),
    TpotTable(
        name="MiniMax-M2.5 FP8, 8 x H100",
        model=model_facts("MiniMax-M2.5"),
        gpu="H100",
        tensor_parallel=8,
        points={4: 9.01, 8: 11.15, 16: 14.47, 32: 20.12, 64: 30.31, 128: 47.19},
    ),
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
        kv_value_bytes=FP8_BYTES,
        points={4: 9.00, 8: 11.03, 16: 14.84, 32: 21.35, 64: 31.07},
    ),
    TpotTable(
        name="MiniMax-M2.5 FP8, 2 x B200",
        model=model_facts("MiniMax-M2.5"),
        gpu="B200",
        tensor_parallel=2,
        kv_value_bytes=FP8_BYTES,
        memory_share=0.95,
        points={4: 8.90, 8: 10.84, 16: 14.70, 32: 21.10, 64: 30.91, 128: 41.82, 512: 41.93},
    ),
    TpotTable(
        name="MiniMax-M2.5 NVFP4, 1 x B200",
        model=in_format(model_facts("MiniMax-M2.5"), "nvfp4"),
        gpu="B200",
        tensor_parallel=1,
        kv_value_bytes=FP8_BYTES,
        points={4: 7.62, 8: 10.22, 16: 14.54, 32: 22.65, 256: 22.58},
    ),
    TpotTable(
        name="Kimi-K2.5 MXFP4, 8 x MI355X",
        model=in_format(model_facts("Kimi-K2.5"), "mxfp4"),
        gpu="MI355X",
        tensor_parallel=8,
        memory_share=0.95,
        points={4: 12.67, 8: 16.45, 16: 19.80, 32: 27.47, 64: 42.92},
    ),
)
"""The tables that the constants of the prior were set on, those of each architecture together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputRow:
    """Tokens per second of one replica at a number of clients, of a kind that `kind` names.

    Attributes:
        kind: "total" (prompt and output) or "output".
        async_scheduling: whether that vLLM has it by default.
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
    async_scheduling: bool = True


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
            note="vLLM 0.12.0 (its methodology page), no async scheduling by default",
            async_scheduling=False,
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
            (model_facts("DeepSeek-V3"), "H200", 256, 2453.9, "TensorRT-LLM, not vLLM"),
        )
    ),
    *(
        ThroughputRow(
            model=model_facts("gpt-oss-120b"),
            gpu=gpu,
            tensor_parallel=gpus,
            clients=64,
            lengths=INFERENCEX_8K_1K,
            tokens_per_s=gpus * rate,
            kind="total",
            source="InferenceX, April 2026",
            note="number of GPUs taken from throughput and TPOT",
        )
        for gpu, gpus, rate in (
            ("MI300X", 1, 11_511.9),
            ("MI325X", 1, 13_010.9),
            ("H100", 2, 10_394.0),
        )
    ),
)
"""Measurements that no constant was set on, but for `host_s`: the rows without async scheduling."""


def prior_of(table: TpotTable) -> StepModel:
    """The prior of a table's server."""
    return prior(
        table.model,
        GPUS[table.gpu],
        table.parallelism,
        kv_value_bytes=table.kv_value_bytes,
        context_tokens=table.lengths.resident_tokens,
    )


def fitted(table: TpotTable, clients: Iterable[int], start: StepModel | None = None) -> StepFit:
    """The online fit after windows at the points of a table with these numbers of clients.

    `start`: instead of the table's prior.
    """
    fit = StepFit(start or prior_of(table))
    wanted = set(clients)
    shown = [count for count in table.points if count in wanted]
    for second in range(LAPS * len(shown)):
        count = shown[second % len(shown)]
        fit.observe(_window(table, count, table.points[count] / 1e3, float(second)))
    return fit


def left_out(table: TpotTable, clients: int, start: StepModel | None = None) -> StepFit:
    """The online fit after windows at all points of a table but the one with `clients`.

    `start`: instead of the table's prior.
    """
    return fitted(table, (count for count in table.points if count != clients), start)


def _window(table: TpotTable, clients: int, tpot_s: float, start_s: float) -> Window:
    """Measurements of a server at a point of the table over WINDOW_S, scaled to whole prompts."""
    lengths = table.lengths
    batch = closed_loop_batch(lengths, clients, table.kv_tokens)
    prompts = round(WINDOW_S * batch / (lengths.output_tokens * tpot_s))
    return Window(
        start_s=start_s,
        end_s=start_s + prompts * lengths.output_tokens * tpot_s / batch,
        source=WindowSource.ENGINE,
        step_s=tpot_s,
        gaps=1000,
        batch=batch,
        kv_tokens=batch * lengths.resident_tokens,
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
        async_scheduling=row.async_scheduling,
    )
    answer_s = lengths.output_tokens * closed_loop_tpot_s(model, lengths, row.clients)
    request_s = model.prefill_time_s(lengths.prompt_tokens, lengths.prompt_tokens) + answer_s
    tokens = lengths.output_tokens
    if row.kind == "total":
        tokens += lengths.prompt_tokens
    return row.clients * tokens / request_s
