"""Parts of the configuration on prices and on the meter."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import Url


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class PricesConfig(_Part, frozen=True, kw_only=True):
    """Where dated prices come from. Without a row, a price is unknown, never zero."""

    catalog: Annotated[str, Meta(min_length=1)] | None = None
    """Path of a price catalog, relative to the folder of the configuration file; see
    `moegate prices check`. Its rows go before the starter's."""
    starter: bool = False
    """Whether the public prices that come with moegate are used where the catalog has none."""


class MeteringConfig(_Part, frozen=True, kw_only=True):
    """The meter of the cost of self-hosted servers."""

    state: Annotated[str, Meta(min_length=1)] | None = None
    """File that keeps the sums of the meter over a restart, relative to the folder of the
    configuration file; absent: they begin anew, and the time in which the gateway was down is not
    accounted for."""


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
