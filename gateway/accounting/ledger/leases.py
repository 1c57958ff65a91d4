"""Transactions on leases: extend, give back, close, and adopt those of an earlier process.

Each locks the lease before its accounts, and the accounts in the order of their ids.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from gateway.accounting.ledger.database import Tx
from scheduler.budgets.budget import BudgetAccount, Grant, Holder, Limit, Position, Refusal, grant
from scheduler.budgets.lease_orders import Extend

_LOCK = (
    "UPDATE account SET settled_nano_usd = settled_nano_usd WHERE account_id = $1"
    " RETURNING settled_nano_usd, committed_nano_usd"
)
_GIVE_BACK = "UPDATE account SET committed_nano_usd = committed_nano_usd - $2 WHERE account_id = $1"


@dataclass(frozen=True, slots=True)
class Owner:
    """A gateway process: a restart keeps its name and gets a new epoch."""

    gateway: str
    epoch: str


@dataclass(frozen=True, slots=True)
class Extended:
    """The total that is granted to a lease, and what its accounts have left afterwards."""

    granted_nano_usd: int
    left_nano_usd: int | None


class LeaseGone(Exception):
    """The lease was recovered: another gateway considered its owner dead."""


async def extend(tx: Tx, owner: Owner, step: Extend) -> Extended | Refusal:
    """Grants an amount to a lease, which is made where it is missing. Raises LeaseGone."""
    lease = step.lease
    accounts = [limit.account.account_id for limit in lease.limits]
    found = await tx.rows(
        "UPDATE lease SET state = state WHERE lease_id = $1 RETURNING state, granted_nano_usd",
        lease.lease_id,
    )
    granted = 0
    if found:
        state, granted = found[0]
        if state != "open":
            raise LeaseGone(lease.lease_id)
    positions = [await _position(tx, limit) for limit in lease.limits]
    decision = grant(step.need_nano_usd, positions, free_nano_usd=step.free_nano_usd)
    if isinstance(decision, Refusal):
        return decision
    if found:
        await tx.run(
            "UPDATE lease SET granted_nano_usd = granted_nano_usd + $2 WHERE lease_id = $1",
            *(lease.lease_id, decision.nano_usd),
        )
    else:
        await tx.run(
            "INSERT INTO lease (lease_id, gateway, epoch, tenant, key_id, session_id, accounts,"
            " state, granted_nano_usd, settled_nano_usd, recovered_nano_usd, opened_unix_us)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, 'open', $8, 0, 0, $9)",
            *(lease.lease_id, owner.gateway, owner.epoch),
            *(lease.holder.tenant, lease.holder.key_id, lease.holder.session_id or ""),
            msgspec.json.encode(accounts).decode(),
            *(decision.nano_usd, _now_us()),
        )
    await tx.many(_GIVE_BACK, [(name, -decision.nano_usd) for name in accounts])
    return _extended(granted, decision)


def _extended(granted: int, decision: Grant) -> Extended:
    return Extended(granted + decision.nano_usd, decision.left_nano_usd)


async def _position(tx: Tx, limit: Limit) -> Position:
    """Locks an account; a new one starts with the sum of the rows in its window."""
    account = limit.account
    found = await tx.rows(_LOCK, account.account_id)
    if not found:
        spent = await _spent(tx, account, limit.ends_unix_s)
        await tx.run(
            "INSERT INTO account (account_id, tenant, key_id, session_id, period, starts_unix_s,"
            " settled_nano_usd, committed_nano_usd) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)"
            " ON CONFLICT (account_id) DO NOTHING",
            *(account.account_id, account.tenant, account.key_id, account.session_id),
            *(account.period.value, account.starts_unix_s, spent),
        )
        found = await tx.rows(_LOCK, account.account_id)
    settled, committed = found[0]
    return Position(limit=limit, settled_nano_usd=settled, committed_nano_usd=committed)


async def _spent(tx: Tx, account: BudgetAccount, ends_unix_s: int) -> int:
    where, values = "", []
    if account.key_id:
        values.append(account.key_id)
        where += f" AND key_id = ${len(values) + 3}"
    if account.session_id is not None:
        values.append(account.session_id)
        where += f" AND session_id = ${len(values) + 3}"
    [(spent,)] = await tx.rows(
        "SELECT CAST(COALESCE(SUM(budgeted_nano_usd), 0) AS BIGINT) FROM attempt WHERE tenant = $1"
        # The index is on the end, which is not before the start.
        f" AND ended_unix_us >= $2 AND started_unix_us >= $2 AND started_unix_us < $3{where}",
        *(account.tenant, account.starts_unix_s * 1_000_000, ends_unix_s * 1_000_000, *values),
    )
    return int(spent)


async def give_back(tx: Tx, lease_id: str, nano_usd: int) -> None:
    """Returns free money of a lease to its accounts; does nothing where it is no longer open."""
    found = await tx.rows(
        "UPDATE lease SET granted_nano_usd = granted_nano_usd - $2"
        " WHERE lease_id = $1 AND state = 'open' RETURNING accounts",
        *(lease_id, nano_usd),
    )
    for (accounts,) in found:
        await tx.many(_GIVE_BACK, [(name, nano_usd) for name in account_ids(accounts)])


async def close(tx: Tx, lease_id: str) -> None:
    """Closes a lease whose rows are written: what it did not settle goes back."""
    found = await tx.rows(
        "UPDATE lease SET state = 'closed', closed_unix_us = $2"
        " WHERE lease_id = $1 AND state = 'open'"
        " RETURNING accounts, granted_nano_usd - settled_nano_usd",
        *(lease_id, _now_us()),
    )
    for accounts, unused in found:
        await tx.many(_GIVE_BACK, [(name, unused) for name in account_ids(accounts)])


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLease:
    """An open lease of a process that has ended, whose rows are written."""

    lease_id: str
    tenant: str
    key_id: str
    session_id: str
    account_ids: tuple[str, ...]
    granted_nano_usd: int
    settled_nano_usd: int
    opened_unix_s: float


async def adopt_own_leases(tx: Tx, owner: Owner) -> list[OpenLease]:
    """Makes the open leases of earlier processes of its name those of this one, because their
    requests go on. Returns them."""
    found = await tx.rows(
        "UPDATE lease SET epoch = $2 WHERE state = 'open' AND gateway = $1 AND epoch <> $2"
        " RETURNING lease_id, tenant, key_id, session_id, accounts, granted_nano_usd,"
        " settled_nano_usd, opened_unix_us",
        *(owner.gateway, owner.epoch),
    )
    return [
        OpenLease(
            lease_id=lease_id,
            tenant=tenant,
            key_id=key_id,
            session_id=session_id,
            account_ids=tuple(account_ids(accounts)),
            granted_nano_usd=granted,
            settled_nano_usd=settled,
            opened_unix_s=opened_us / 1e6,
        )
        for lease_id, tenant, key_id, session_id, accounts, granted, settled, opened_us in found
    ]


async def record_heartbeat(tx: Tx, owner: Owner) -> None:
    """Records that this gateway is alive."""
    await tx.run(
        "INSERT INTO gateway (name, epoch, seen_unix_us) VALUES ($1, $2, $3)"
        " ON CONFLICT (name) DO UPDATE SET epoch = $2, seen_unix_us = $3",
        *(owner.gateway, owner.epoch, _now_us()),
    )


def owned_by(holder: Holder) -> str:
    """The name of a holder in logs."""
    session = "" if holder.session_id is None else f", session {holder.session_id[:40]!r}"
    return f"tenant {holder.tenant}, key {holder.key_id}{session}"


def account_ids(accounts: str) -> list[str]:
    """Returns the ids in column `accounts` of a lease, in order."""
    return sorted(msgspec.json.decode(accounts, type=list[str]))


def _now_us() -> int:
    return round(time.time() * 1e6)
