"""Parts of the configuration on the engines of a pool: LoRA adapters, KV events, prefill and decode
apart."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import ModelName, Url

Port = Annotated[int, Meta(ge=1, le=65_535)]


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


class KvEventsConfig(_Part, frozen=True, kw_only=True):
    """vLLM's KV events (--kv-events-config): which blocks of tokens each prefix cache holds. The
    hits of a placement are then known exactly for prompts given as token ids. Events hold the
    tokens of all prompts, in plain text."""

    port: Port = 5557
    """Port of a replica's first data-parallel rank, at the host of its URL; each further rank
    publishes on the next one."""
    replay_port: Port | None = None
    """Port of its `replay_endpoint`, one more for each further rank: events that were published
    before the gateway listened, or that it missed, are requested there. Absent: they stay
    unknown."""
    topic: Annotated[str, Meta(max_length=256)] = ""
    """Topic that they publish under; empty: any."""


class EnginesConfig(_Part, frozen=True, kw_only=True):
    """Engines behind the proxy of a disaggregated replica: where each tells its metrics. The first
    that decodes is also asked for its models and for token counts, which a proxy need not know."""

    prefill: Annotated[tuple[Url, ...], Meta(min_length=1, max_length=64)]
    """Addresses of the engines that prefill, without path."""
    decode: Annotated[tuple[Url, ...], Meta(min_length=1, max_length=64)]
    """Addresses of the engines that decode, without path."""


class DisaggregatedNodesConfig(_Part, frozen=True, kw_only=True):
    """Nodes of a replica that splits prefill and decode; all of them have the same price."""

    prefill: Annotated[int, Meta(ge=1, le=100_000)]
    """Nodes (or GPUs) that do prefill."""
    decode: Annotated[int, Meta(ge=1, le=100_000)]
    """Nodes (or GPUs) that decode."""
