"""The file of a price catalog: its shape. Loaded by `gateway/accounting/prices/file.py`.

Prices are decimal texts of US dollars; token prices are per million tokens. A row holds from
`valid_from` until before `valid_to`, UTC. Two rows of one thing never overlap, and where none holds
the price is unknown. The docstring of a field is its documentation in error messages.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

RowId = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,126}$",
        description="Letters, digits and any of . _ / : - , at most 127 characters.",
    ),
]
Label = Annotated[str, Meta(min_length=1, max_length=256)]
Usd = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,9})?$",
        description='US dollars as a quoted decimal number, such as "0.28".',
    ),
]
Instant = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}Z)?$",
        description="UTC date such as 2026-11-01 (its midnight), or 2026-11-01T16:00Z.",
    ),
]
Date = Annotated[
    str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", description="Date such as 2026-11-23.")
]
Clock = Annotated[
    str,
    Meta(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$",
        description="UTC time of day, 00:00 to 24:00.",
    ),
]


class Weekday(enum.StrEnum):
    """Day of the week, UTC."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class TokenPrices(_Row, frozen=True, kw_only=True):
    """Prices per million tokens, USD."""

    input: Usd
    """Price of a million input tokens that are computed."""
    output: Usd
    """Price of a million output tokens, reasoning included."""
    cached_input: Usd | None = None
    """Price of a million input tokens read from a cache; absent: the input price."""
    cache_write: Usd | None = None
    """Price of a million input tokens written to a cache; absent: the input price."""
    long_cache_write: Usd | None = None
    """The same for a cache that is kept an hour; absent: the price of cache_write."""


class ContextTier(_Row, frozen=True, kw_only=True):
    """Prices of a request whose input is longer; they price all of it."""

    context_over_tokens: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    """Input tokens, cached ones included, above which the tier prices the request."""
    usd_per_mtok: TokenPrices
    """Its prices."""


class Window(_Row, frozen=True, kw_only=True):
    """Prices at certain times of the day, UTC; they replace the row's prices and its tiers."""

    name: RowId
    """Name for accounts, such as off-peak."""
    days: Annotated[tuple[Weekday, ...], Meta(min_length=1)] = tuple(Weekday)
    """Days on which it begins; absent: every day."""
    start: Clock
    """When it begins."""
    end: Clock
    """When it ends, on the same day, after `start`."""
    usd_per_mtok: TokenPrices
    """Its prices."""


class Validity(_Row, frozen=True, kw_only=True):
    """Fields of every row."""

    id: RowId
    """Name of the row in accounts, unique in the catalog and never used again."""
    valid_from: Instant
    """Since when the price holds."""
    valid_to: Instant | None = None
    """End of the time in which it holds, exclusive; absent: not known."""
    source: Annotated[str, Meta(min_length=1, max_length=500)]
    """Where the price was read: an address, a contract, an invoice."""
    checked_at: Date
    """Date of the last comparison of the row with its source."""
    confirmed: bool = False
    """Whether a value that looks like a mistake (zero, tiny, huge, a leap) is intended."""


class GpuHourRow(Validity, frozen=True, kw_only=True):
    """Price of one self-hosted GPU for an hour."""

    gpu: Label
    """Type of the GPU, as `gpu.type` of the pools."""
    pool: RowId | None = None
    """Only of this pool; absent: of every pool with such GPUs."""
    usd_per_gpu_hour: Usd
    """Price of one GPU for an hour, with its share of the server, energy and operation."""


class RemoteRow(Validity, frozen=True, kw_only=True):
    """Price of the tokens of a remote API."""

    provider: RowId
    """Name of the provider."""
    model: Label
    """Model, as the provider names it."""
    usd_per_mtok: TokenPrices
    """Its prices."""
    tiers: tuple[ContextTier, ...] = ()
    """Prices of longer inputs."""
    windows: tuple[Window, ...] = ()
    """Prices at certain times."""
    batch_usd_per_mtok: TokenPrices | None = None
    """Prices of the provider for batch work. They price requests of a remote that asks for them
    with `batch_body_json`; else they are for comparison."""


class ShowbackRow(Validity, frozen=True, kw_only=True):
    """Charge to tenants for the tokens of a self-hosted pool."""

    pool: RowId
    """Name of the pool."""
    adapter: Label | None = None
    """Only for this LoRA adapter of the pool, by the name that clients use; absent: for the pool's
    model, and for each adapter while no row of its own holds."""
    usd_per_mtok: TokenPrices
    """Charges of its tenants."""
    tiers: tuple[ContextTier, ...] = ()
    """Prices of longer inputs."""
    batch_usd_per_mtok: TokenPrices | None = None
    """Charges for batch work: items of offline jobs, and requests of class batch, whatever their
    input's length; absent: they are charged as all other requests."""


class CatalogFile(_Row, frozen=True, kw_only=True):
    """The whole file."""

    gpu_hours: tuple[GpuHourRow, ...] = ()
    """Prices of self-hosted GPUs."""
    remote_tokens: tuple[RemoteRow, ...] = ()
    """Prices of remote APIs."""
    showback: tuple[ShowbackRow, ...] = ()
    """Charges to tenants for self-hosted pools."""
