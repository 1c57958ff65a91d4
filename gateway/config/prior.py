"""The part of the configuration on the first step model of a pool, before any fit."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta


class WeightFormat(enum.StrEnum):
    """Format of the weights in the GPUs' memory."""

    BF16 = "bf16"
    FP8 = "fp8"
    NVFP4 = "nvfp4"
    MXFP4 = "mxfp4"
    INT4 = "int4"


class KvCacheFormat(enum.StrEnum):
    """Format of the KV cache."""

    BF16 = "bf16"
    FP8 = "fp8"


class PriorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Facts of the model, from which step times are predicted before any was measured."""

    catalog: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """Its name in the catalog (`moegate inspect --list`); absent: found by the model's name."""
    config_json: Annotated[str, Meta(min_length=1)] | None = None
    """Path of its config.json, or of the folder that holds it, relative to the folder of the
    configuration file: for a model that the catalog does not have."""
    weights: WeightFormat | None = None
    """Format of the weights, where it is not the published one."""
    kv_cache: KvCacheFormat = KvCacheFormat.BF16
    """Format of the KV cache (--kv-cache-dtype)."""
