"""The parts of the configuration on accounts: where every attempt is written, and caps on spend."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import Name, SecretConfig
from scheduler.budgets.budget_window import Period

Usd = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$",
        description='US dollars as a quoted decimal number, such as "250.00".',
    ),
]


class LedgerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where every attempt is accounted for: a file of this gateway's own, or a PostgreSQL that
    several gateways share."""

    sqlite: Annotated[str, Meta(min_length=1)] = "moegate-ledger.sqlite3"
    """Path of the file, relative to the folder of the configuration file."""
    postgres: SecretConfig | None = None
    """Address of a PostgreSQL database, postgresql://user:password@host/database, in place of the
    file."""
    gateway: Name | None = None
    """Name of this gateway there, unique, and the same after a restart; absent: that of the host
    with the port."""
    spool: Annotated[str, Meta(min_length=1)] | None = None
    """File that keeps rows until the database has them, so that a killed gateway loses none;
    relative to the folder of the configuration file, on a local disk, of this gateway alone.
    Absent: beside the SQLite file; with PostgreSQL there is none, and rows wait in memory."""
    backlog_rows: Annotated[int, Meta(ge=1000, le=10_000_000)] = 50_000
    """Most rows that wait in memory while the disk is full or the database is away, some 2 kB
    each; more are counted and their sum is reported, but they are lost."""
    retain_days: Annotated[int, Meta(ge=62, le=36_500)] = 400
    """Age at which rows are deleted: export them before. Their sums by hour, day and month stay."""
    retain_hourly_days: Annotated[int, Meta(ge=62, le=36_500)] = 800
    """Age at which sums by hour are deleted; sums by day and by month stay for good."""
    retain_audit_days: Annotated[int, Meta(ge=62, le=36_500)] = 800
    """Age at which events of the audit log are deleted, and revoked keys: their ids are free
    then."""


class BudgetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cap on the charges of a tenant, of one of its keys, or of each session."""

    tenant: Name
    """Name of the tenant."""
    key: Name | None = None
    """Id of one of its keys; absent: the whole tenant."""
    each_session: bool = False
    """Whether each session (`session_id` of the requests) has the cap to itself; requests without
    one share one."""
    period: Period
    """Period after which the cap starts anew, in UTC."""
    cap_usd: Usd
    """The cap."""
    hard: bool = True
    """Whether requests are refused at the cap; else it is only reported."""
