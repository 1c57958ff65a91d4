"""The model that a command names, for `moegate inspect` and `moegate plan`."""

from __future__ import annotations

from pathlib import Path

from gateway.config.resolve.step_model_prior import read_model_dir
from simulation.catalog.facts import ModelFacts
from simulation.catalog.hf_fields import UnreadableConfig
from simulation.catalog.models import find_model

KV_BYTES = {"bf16": 2.0, "fp8": 1.0}
"""Bytes of one value in the KV cache, keyed by its format."""


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
