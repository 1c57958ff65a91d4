"""Columns of the ledger's table of attempts, and the states of its rows.

Rows of `attempt` are only ever added. A row is named by the process that wrote it (`epoch`, new at
each start) and that process's counter (`seq`), so that a batch that is written twice adds nothing.
Money is nano-USD; NULL means unknown. `budgeted_nano_usd` is what the row counts with in budgets:
its charge, or the whole reservation where the charge is unknown.

In `account`, `committed_nano_usd` is the settled amount plus what is granted to open leases and not
settled: it exceeds the cap only by an overrun. In `budget`, a cap of NULL means that the budget of
the configuration file was taken away at run time. `lease.state` is open, closed or recovered.

`migrations.py` makes the tables.
"""

from __future__ import annotations

import enum


class RowState(enum.StrEnum):
    """Kind of a row of the ledger."""

    FINAL = "final"
    """Tokens as the upstream reported them, at a known price."""
    ESTIMATED = "estimated"
    """Tokens as the gateway counted them, at a known price."""
    UNPRICED = "unpriced"
    """No price is known; its charge is in no sum."""
    CORRECTION = "correction"
    """Adds to the charge of an earlier row; may be negative."""
    LEASE_RECOVERY = "lease_recovery"
    """The unsettled part of a dead process's lease: rows that were lost, and requests that ran. An
    upper bound."""


ATTEMPT = {
    "epoch": "TEXT NOT NULL",
    "seq": "BIGINT NOT NULL",
    "state": "TEXT NOT NULL",
    "request_id": "TEXT NOT NULL",
    "attempt": "BIGINT NOT NULL",
    "key_id": "TEXT NOT NULL",
    "tenant": "TEXT NOT NULL",
    "session_id": "TEXT NOT NULL",
    "model": "TEXT NOT NULL",
    "slo_class": "TEXT NOT NULL",
    "placement": "TEXT NOT NULL",
    "pool": "TEXT NOT NULL",
    "kind": "TEXT NOT NULL",
    "outcome": "TEXT NOT NULL",
    "started_unix_us": "BIGINT NOT NULL",
    "ended_unix_us": "BIGINT NOT NULL",
    "prompt_tokens": "BIGINT",
    "cached_tokens": "BIGINT",
    "cache_write_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "reasoning_tokens": "BIGINT",
    "metered_nano_usd": "BIGINT",
    "charged_nano_usd": "BIGINT",
    "budgeted_nano_usd": "BIGINT NOT NULL",
    "basis": "TEXT NOT NULL",
    "price_row_id": "TEXT NOT NULL",
    "parts": "TEXT NOT NULL",
    "cheapest_remote_nano_usd": "BIGINT",
    "last_attempt": "BIGINT NOT NULL",
    "lease_id": "TEXT NOT NULL",
    "note": "TEXT NOT NULL",
    "end_user": "TEXT NOT NULL",
    "labels": "TEXT NOT NULL",
}
"""Columns of the table of attempts and their types, as the newest migration leaves them."""
ATTEMPT_COLUMNS = tuple(ATTEMPT)
