"""The tables of the ledger: the same statements make them in SQLite and in PostgreSQL.

Rows of `attempt` are only ever added. They are named by the process that wrote them (`epoch`, new
at each start) and its counter, so that a batch that is written again adds nothing. Money is
nano-USD; NULL: unknown. `budgeted_nano_usd` is what the row counts with in budgets: its charge, or
the whole reservation where the charge is unknown.

Of each account of a budget, `committed_nano_usd` is what is settled, and what is granted to open
leases and not settled: it never passes the cap but by an overrun.
"""

from __future__ import annotations

import enum

VERSION = 1


class RowState(enum.StrEnum):
    """What a row of the ledger is."""

    FINAL = "final"
    """Tokens as the upstream reported them, at a known price."""
    ESTIMATED = "estimated"
    """Tokens as the gateway counted them, at a known price."""
    UNPRICED = "unpriced"
    """No price is known: its charge is in no sum."""
    CORRECTION = "correction"
    """Added to what an earlier row said; may be negative."""
    LEASE_RECOVERY = "lease_recovery"
    """What a process that died had leased and not accounted for: its lost rows, and the requests
    that it ran. An upper bound."""


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
}
"""Columns of the table of attempts, with their types."""
ATTEMPT_COLUMNS = tuple(ATTEMPT)
_ATTEMPT_TYPES = ", ".join(f"{name} {sql_type}" for name, sql_type in ATTEMPT.items())

STATEMENTS = (
    f"CREATE TABLE IF NOT EXISTS attempt ({_ATTEMPT_TYPES}, PRIMARY KEY (epoch, seq))",
    "CREATE INDEX IF NOT EXISTS attempt_by_end ON attempt (ended_unix_us)",
    """CREATE TABLE IF NOT EXISTS budget (
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        each_session BIGINT NOT NULL,
        period TEXT NOT NULL,
        cap_nano_usd BIGINT,
        hard BIGINT NOT NULL,
        PRIMARY KEY (tenant, key_id, each_session, period)
    )""",
    """CREATE TABLE IF NOT EXISTS account (
        account_id TEXT NOT NULL PRIMARY KEY,
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        session_id TEXT,
        period TEXT NOT NULL,
        starts_unix_s BIGINT NOT NULL,
        settled_nano_usd BIGINT NOT NULL,
        committed_nano_usd BIGINT NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS account_by_start ON account (starts_unix_s)",
    """CREATE TABLE IF NOT EXISTS lease (
        lease_id TEXT NOT NULL PRIMARY KEY,
        gateway TEXT NOT NULL,
        epoch TEXT NOT NULL,
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        accounts TEXT NOT NULL,
        state TEXT NOT NULL,
        granted_nano_usd BIGINT NOT NULL,
        settled_nano_usd BIGINT NOT NULL,
        recovered_nano_usd BIGINT NOT NULL,
        opened_unix_us BIGINT NOT NULL,
        closed_unix_us BIGINT
    )""",
    "CREATE INDEX IF NOT EXISTS lease_by_state ON lease (state, gateway)",
    """CREATE TABLE IF NOT EXISTS gateway (
        name TEXT NOT NULL PRIMARY KEY,
        epoch TEXT NOT NULL,
        seen_unix_us BIGINT NOT NULL
    )""",
    "CREATE TABLE IF NOT EXISTS ledger (version BIGINT NOT NULL)",
)
"""`budget` holds those that were set at run time (cap NULL: taken away), over the file's.
`lease.state`: open, closed, recovered."""
