"""The part of the configuration on the LoRA adapters of a pool."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import ModelName


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class AdapterConfig(_Part, frozen=True, kw_only=True):
    """One LoRA adapter (vLLM's --lora-modules, or loaded at run time)."""

    model: ModelName
    """Name that clients use, and that keys and remotes may name as a model."""
    upstream_model: ModelName | None = None
    """Name that vLLM serves it under; absent: `model`."""


class AdaptersConfig(_Part, frozen=True, kw_only=True):
    """LoRA adapters that the servers of a pool have beside its model. A request for one goes to
    servers that list it in /v1/models, which is read again every 10 s."""

    models: Annotated[tuple[AdapterConfig, ...], Meta(max_length=1024)] = ()
    """Adapters that clients may name, whether a server has them loaded now or not."""
    discover: bool = False
    """Whether clients may also name every other adapter that a server lists, by its name there. A
    key without `models` may use all of them."""
    most: Annotated[int, Meta(ge=1, le=4096)] = 256
    """Most adapters that are believed of one server; of a longer list the first ones by name."""
