"""The report of `moegate inspect`: figures of a model, computed and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from moegate.cli.views.fitted_table import Column, FittedTable, number
from simulation.catalog.arithmetic import compute_knee_batch
from simulation.catalog.deployment import smallest_deployment
from simulation.catalog.facts import ModelFacts
from simulation.catalog.gpus import GPUS, GpuFacts
from simulation.catalog.memory import ServerMemory
from simulation.catalog.models import KNOWN, model_facts
from simulation.catalog.prior import TYPICAL_CONTEXT_TOKENS, prior

BILLION = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuDeployment:
    """The smallest deployment on one type of GPU. All counts are 0 if none is large enough.

    `full_batch`: sequences that touch 95 % of the experts, or that fill the KV cache if that is
    fewer. `kv_least_tokens`, `kv_most_tokens`: the range that memory of real servers scatters in.
    `compute_knee_batch`: the batch above which arithmetic takes longer than reading the
    experts' weights. Times are predicted by the prior.
    """

    gpu: str
    tensor_parallel: int = 0
    data_parallel: int = 0
    kv_capacity_tokens: int = 0
    kv_least_tokens: int = 0
    kv_most_tokens: int = 0
    compute_knee_batch: int = 0
    step_ms_alone: float = 0.0
    full_batch: int = 0
    step_ms_full: float = 0.0
    prefill_tokens_per_s: int = 0

    @property
    def gpus(self) -> int:
        """GPUs of all ranks together."""
        return self.tensor_parallel * self.data_parallel

    @property
    def kv_margin(self) -> float:
        """Half the range of KV tokens, as a share."""
        return (self.kv_most_tokens - self.kv_least_tokens) / (2.0 * self.kv_capacity_tokens)


def figures(model: ModelFacts, kv_bytes: float) -> dict[str, float]:
    """Figures that are computed from the facts of a model."""
    return {
        "total_parameters": model.total_parameters,
        "active_parameters": model.active_parameters,
        "weights_bytes": model.weights_bytes,
        "kv_bytes_per_token": model.kv_bytes_per_token(kv_bytes),
        "kv_bytes_per_late_token": model.kv_bytes_per_late_token(kv_bytes),
        "touch_all_batch": prior(model, GPUS["H100"]).touch_all_batch(),
    }


def on_gpu(
    model: ModelFacts, gpu: GpuFacts, kv_bytes: float, server: ServerMemory
) -> GpuDeployment:
    """Computes the smallest deployment on one type of GPU."""
    found = smallest_deployment(model, gpu, server=server, kv_value_bytes=kv_bytes)
    if found is None:
        return GpuDeployment(gpu=gpu.name)
    spread, kv = found
    step = prior(model, gpu, spread, kv_value_bytes=kv_bytes)
    prompt = TYPICAL_CONTEXT_TOKENS
    full = max(1, min(round(step.touch_all_batch()), int(kv.tokens / prompt)))
    width = 2.0 if model.widened_experts else model.expert_bytes
    return GpuDeployment(
        gpu=gpu.name,
        tensor_parallel=spread.tensor,
        data_parallel=spread.data,
        kv_capacity_tokens=kv.tokens,
        kv_least_tokens=kv.least,
        kv_most_tokens=kv.most,
        compute_knee_batch=round(
            compute_knee_batch(
                experts=model.experts,
                experts_per_token=model.experts_per_token,
                flops_per_s=gpu.flops(width),
                bytes_per_s=gpu.memory_bytes_per_s,
                bytes_per_parameter=model.expert_bytes,
            )
        ),
        step_ms_alone=1e3 * step.decode_step_s(1, prompt),
        full_batch=full,
        step_ms_full=1e3 * step.decode_step_s(full, full * prompt),
        prefill_tokens_per_s=round(prompt / step.prefill_time_s(prompt, prompt)),
    )


def report(model: ModelFacts, kv_bytes: float, rows: Sequence[GpuDeployment]) -> Group:
    """The facts of a model, and its smallest deployment on each type of GPU."""
    computed = figures(model, kv_bytes)
    facts = Table(title=model.name, show_header=False, box=None, title_justify="left")
    for label, value in (
        ("parameters", f"{model.total_parameters / BILLION:,.1f} B"),
        ("of them active for a token", f"{model.active_parameters / BILLION:,.1f} B"),
        ("weights in memory", f"{model.weights_bytes / BILLION:,.1f} GB"),
        ("layers with experts, without", f"{model.moe_layers}, {model.dense_layers}"),
        ("experts per layer, per token", f"{model.experts}, {model.experts_per_token}"),
        ("attention", ", ".join(f"{kind.layers} x {kind.kind}" for kind in model.attention)),
        ("KV cache per token", _kv_text(model, kv_bytes)),
        ("longest sequence", f"{model.context_tokens or 0:,} tokens"),
        ("batch that touches 95 % of the experts", f"{computed['touch_all_batch']:.0f}"),
    ):
        facts.add_row(label, value)
    table = FittedTable(
        [
            Column(header="GPU"),
            number("GPUs"),
            number("ranks", leaves=2),
            number("KV tokens"),
            number("±", leaves=3),
            number("ms/step\nalone"),
            number("ms/step\nfull"),
            number("prefill\ntokens/s"),
            number("compute\nknee", leaves=1),
        ]
    )
    for row in rows:
        if not row.gpus:
            table.add_row(row.gpu, "too small", *[""] * 7)
            continue
        table.add_row(
            row.gpu,
            f"{row.gpus}",
            f"{row.data_parallel}",
            f"{row.kv_capacity_tokens:,}",
            f"{row.kv_margin:.0%}",
            f"{row.step_ms_alone:.1f}",
            f"{row.step_ms_full:.1f} at {row.full_batch}",
            f"{row.prefill_tokens_per_s:,}",
            f"{row.compute_knee_batch:,}",
        )
    notes = Text(
        f"Sequences of {TYPICAL_CONTEXT_TOKENS:,.0f} tokens; full: 95 % of the experts touched, or "
        "the KV cache used up.\n±: range in which the memory of real servers scatters.\n"
        "Predicted before any measurement; how well: docs/step-model.md"
    )
    return Group(facts, Text("smallest deployment, and its predicted speed"), table, notes)


def _kv_text(model: ModelFacts, kv_bytes: float) -> str:
    growing = model.kv_bytes_per_token(kv_bytes)
    late = model.kv_bytes_per_late_token(kv_bytes)
    text = f"{growing:,.0f} bytes"
    return text if late == growing else f"{text}, {late:,.0f} beyond the windows"


def catalog_table() -> Table:
    """The models of the catalog."""
    table = Table(box=None)
    table.add_column("model")
    for header in ("total", "active", "experts"):
        table.add_column(header, justify="right")
    table.add_column("source")
    for name, known in KNOWN.items():
        model = model_facts(name)
        table.add_row(
            name,
            f"{model.total_parameters / BILLION:,.1f} B",
            f"{model.active_parameters / BILLION:,.1f} B",
            f"{model.experts} / {model.experts_per_token}",
            known.source,
        )
    return table
