"""The model that a command names and the memory of its server: `moegate inspect` and `plan`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.config.resolve.step_model_prior import read_model_dir
from simulation.catalog.facts import ModelFacts
from simulation.catalog.hf_fields import UnreadableConfig
from simulation.catalog.memory import MEMORY_SHARE, ServerMemory
from simulation.catalog.models import find_model

KV_BYTES = {"auto": 2.0, "bf16": 2.0, "fp8": 1.0}
"""Bytes of one value in the KV cache, keyed by its format; auto: 16 bits, as models are stored."""
MOST_BATCHED_TOKENS = 1 << 20
"""Largest --max-num-batched-tokens that is believed."""


def declare_memory(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Adds vLLM's flags that its KV cache depends on, under vLLM's names."""
    group.add_argument(
        "--kv-cache-dtype",
        "--kv-cache",
        choices=KV_BYTES,
        default="auto",
        help="format of the KV cache (%(default)s: 16 bits)",
    )
    group.add_argument(
        "--gpu-memory-utilization",
        type=_utilization,
        default=MEMORY_SHARE,
        metavar="S",
        help="share of the GPU's memory that vLLM takes (%(default)s; before vLLM 0.21: 0.9)",
    )
    group.add_argument(
        "--max-num-batched-tokens",
        type=_batched_tokens,
        metavar="N",
        help="of one step; absent: vLLM's default for the GPU",
    )


def server_memory(args: argparse.Namespace, sequences: int | None = None) -> ServerMemory:
    """The settings that `declare_memory` asked for. `sequences`: --max-num-seqs."""
    return ServerMemory(
        memory_share=args.gpu_memory_utilization,
        batched_tokens=args.max_num_batched_tokens,
        sequences=sequences,
    )


def _utilization(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r}: a share above 0, at most 1, is needed")
    return share


def _batched_tokens(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MOST_BATCHED_TOKENS):
        raise argparse.ArgumentTypeError(
            f"{text!r}: a count of at least 1, at most {MOST_BATCHED_TOKENS:,}, is needed"
        )
    return int(text)


def named_model(name: str) -> ModelFacts:
    """Reads the model of a path, or finds a name in the catalog. Raises UnreadableConfig."""
    if Path(name).exists():
        return read_model_dir(Path(name))
    model = find_model(name)
    if model is None:
        raise UnreadableConfig(
            f"{name}: no folder, no file, and no model of the catalog (moegate inspect --list)"
        )
    return model
