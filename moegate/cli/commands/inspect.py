"""`moegate inspect MODEL`: what a model's config.json says of its size, speed and place."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gateway.config.engine_priors import read_model_dir
from scheduler.step_time.step_model import compute_knee_batch
from simulation.catalog.deployment import FORMATS, in_format, smallest_deployment
from simulation.catalog.facts import ModelFacts
from simulation.catalog.gpus import GPUS, GpuFacts
from simulation.catalog.hf_fields import UnreadableConfig
from simulation.catalog.models import KNOWN, find_model, model_facts
from simulation.catalog.prior import TYPICAL_CONTEXT_TOKENS, prior

WIDTH = 100
BILLION = 1e9
KV_BYTES = {"bf16": 2.0, "fp8": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnGpu:
    """The smallest deployment on one type of GPU; without GPUs where none is large enough.

    `full_batch`: sequences that touch 95 % of the experts, or as many as the KV cache holds;
    `compute_knee_batch`: from which on arithmetic takes longer than the experts' bytes. Times are
    the prior's.
    """

    gpu: str
    tensor_parallel: int = 0
    data_parallel: int = 0
    kv_capacity_tokens: int = 0
    compute_knee_batch: int = 0
    step_ms_alone: float = 0.0
    full_batch: int = 0
    step_ms_full: float = 0.0
    prefill_tokens_per_s: int = 0

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.tensor_parallel * self.data_parallel


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "inspect", help="a model's facts, KV cache per token, knees and smallest deployments"
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="folder of a model, its config.json, or a name of the catalog",
    )
    parser.add_argument("--list", action="store_true", help="the models of the catalog")
    parser.add_argument("--weights", choices=FORMATS, help="format of the weights; absent: as is")
    parser.add_argument(
        "--kv-cache", choices=KV_BYTES, default="bf16", help="format of the KV cache (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0; 1: the model cannot be read; 2: none was named."""
    if args.list:
        _print_catalog()
        return 0
    if args.model is None:
        print("moegate inspect: name a model, or give --list", file=sys.stderr)
        return 2
    try:
        model = named_model(args.model)
    except UnreadableConfig as error:
        print(f"moegate inspect: {error}", file=sys.stderr)
        return 1
    if args.weights is not None:
        model = in_format(model, args.weights)
    kv_bytes = KV_BYTES[args.kv_cache]
    rows = [on_gpu(model, gpu, kv_bytes) for gpu in GPUS.values()]
    if args.json:
        facts = {**asdict(model), **figures(model, kv_bytes)}
        print(json.dumps({**facts, "deployments": [asdict(row) for row in rows]}, indent=2))
    else:
        _print_tables(model, kv_bytes, rows)
    return 0


def named_model(name: str) -> ModelFacts:
    """A model by path, else by name in the catalog. Raises UnreadableConfig."""
    if Path(name).exists():
        return read_model_dir(Path(name))
    model = find_model(name)
    if model is None:
        raise UnreadableConfig(
            f"{name}: no folder, no file, and no model of the catalog (moegate inspect --list)"
        )
    return model


def figures(model: ModelFacts, kv_bytes: float) -> dict[str, float]:
    """What is computed from the facts."""
    return {
        "total_parameters": model.total_parameters,
        "active_parameters": model.active_parameters,
        "weights_bytes": model.weights_bytes,
        "kv_bytes_per_token": model.kv_bytes_per_token(kv_bytes),
        "kv_bytes_per_late_token": model.kv_bytes_per_late_token(kv_bytes),
        "touch_all_batch": prior(model, GPUS["H100"]).touch_all_batch(),
    }


def on_gpu(model: ModelFacts, gpu: GpuFacts, kv_bytes: float) -> OnGpu:
    """The row of one type of GPU."""
    found = smallest_deployment(model, gpu, kv_value_bytes=kv_bytes)
    if found is None:
        return OnGpu(gpu=gpu.name)
    spread, tokens = found
    step = prior(model, gpu, spread, kv_value_bytes=kv_bytes)
    prompt = TYPICAL_CONTEXT_TOKENS
    full = max(1, min(round(step.touch_all_batch()), int(tokens / prompt)))
    width = 2.0 if model.widened_experts else model.expert_bytes
    return OnGpu(
        gpu=gpu.name,
        tensor_parallel=spread.tensor,
        data_parallel=spread.data,
        kv_capacity_tokens=tokens,
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


def _print_tables(model: ModelFacts, kv_bytes: float, rows: list[OnGpu]) -> None:
    console = Console(width=WIDTH, highlight=False)
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
    console.print(facts)
    table = Table(title="smallest deployment, and its predicted speed", title_justify="left")
    table.add_column("GPU")
    for header in (
        *("GPUs", "ranks", "KV tokens", "ms/step alone", "full"),
        *("prefill tokens/s", "compute knee"),
    ):
        table.add_column(header, justify="right")
    for row in rows:
        if not row.gpus:
            table.add_row(row.gpu, "too small")
            continue
        table.add_row(
            row.gpu,
            f"{row.gpus}",
            f"{row.data_parallel}",
            f"{row.kv_capacity_tokens:,}",
            f"{row.step_ms_alone:.1f}",
            f"{row.step_ms_full:.1f} at {row.full_batch}",
            f"{row.prefill_tokens_per_s:,}",
            f"{row.compute_knee_batch:,}",
        )
    console.print(table)
    console.print(
        f"Sequences of {TYPICAL_CONTEXT_TOKENS:,.0f} tokens; full: 95 % of the experts touched, or "
        "the KV cache used up.\nPredicted before any measurement; how well: docs/step-model.md"
    )


def _kv_text(model: ModelFacts, kv_bytes: float) -> str:
    growing = model.kv_bytes_per_token(kv_bytes)
    late = model.kv_bytes_per_late_token(kv_bytes)
    text = f"{growing:,.0f} bytes"
    return text if late == growing else f"{text}, {late:,.0f} beyond the windows"


def _print_catalog() -> None:
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
    Console(width=WIDTH, highlight=False).print(table)
