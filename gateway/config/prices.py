"""Parts of the configuration on prices and on the meter."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


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
