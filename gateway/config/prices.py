"""Parts of the configuration that say what things cost, and what the meter keeps."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class PricesConfig(_Part, frozen=True, kw_only=True):
    """Where dated prices come from. What no row prices is unknown, never free."""

    catalog: Annotated[str, Meta(min_length=1)] | None = None
    """Path of a price catalog, relative to the folder of the configuration file; see
    `moegate prices check`. Its rows go before the starter's."""
    starter: bool = False
    """Whether the public prices that come with moegate hold where the catalog has none."""


class MeteringConfig(_Part, frozen=True, kw_only=True):
    """The meter of the own servers' cost."""

    state: Annotated[str, Meta(min_length=1)] | None = None
    """File that keeps the meter's sums over a restart, relative to the folder of the configuration
    file; absent: they begin anew, and the time in which the gateway was down is not seen."""


class DisaggregatedNodesConfig(_Part, frozen=True, kw_only=True):
    """How a replica that splits prefill and decode is built; their price is shared alike."""

    prefill: Annotated[int, Meta(ge=1, le=100_000)]
    """Nodes (or GPUs) that do prefill."""
    decode: Annotated[int, Meta(ge=1, le=100_000)]
    """Nodes (or GPUs) that decode."""
