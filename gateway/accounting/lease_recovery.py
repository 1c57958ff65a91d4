"""Books what leases have not settled as spent: of a dead process, or of rows that are lost. Takes
back what turns out not to have been spent.

However many leases there are, the database is asked equally often. Leases are locked before the
accounts, and both in the order of their ids.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from gateway.accounting.ledger.append import add_to, apply, recovery_epoch
from gateway.accounting.ledger.database import Dialect, Tx
from gateway.accounting.ledger.leases import Owner, account_ids
from gateway.accounting.ledger.rows import INSERT, bare_row
from gateway.accounting.ledger.schema import RowState

_GIVEN = {
    Dialect.SQLITE: "SELECT key AS id, value AS amount FROM json_each($1)",
    Dialect.POSTGRES: "SELECT key AS id, value::bigint AS amount FROM json_each_text($1::json)",
}
"""An amount of each lease, as a JSON object."""
_FOR_UPDATE = {Dialect.SQLITE: "", Dialect.POSTGRES: ' COLLATE "C" FOR UPDATE'}
"""SQLite has one writer. In the order of bytes, as Python compares ids, whatever the database's
collation is."""
_EPOCH = f"'{recovery_epoch('')}' || id"


@dataclass(frozen=True, slots=True)
class _Lease:
    """A lease that this transaction has locked. `rest_nano_usd`: granted and not settled;
    `recovered_nano_usd`: booked as spent by this module."""

    lease_id: str
    rest_nano_usd: int
    recovered_nano_usd: int
    tenant: str
    key_id: str
    session_id: str
    opened_unix_us: int
    accounts: str


async def record_lost_rows(tx: Tx, lost: Mapping[str, int], note: str) -> None:
    """Books the charges of rows that were lost before they were written. `lost`: nano-USD by lease;
    what exceeds the rest of a lease is left out. Does nothing for a lease that has a row with this
    note already, so that it may be repeated where the database did not answer."""
    leases = await _without_note(tx, await _locked_of(tx, lost), note)
    await _recover(
        tx, [(lease, min(lost[lease.lease_id], lease.rest_nano_usd)) for lease in leases], note
    )


async def recover_own_leases(tx: Tx, owner: Owner) -> int:
    """Recovers, at the start of a process, the open leases of earlier processes of its name.

    Their unsettled rest counts as spent: one row for each lease covers rows that were not written
    and requests that ran. Returns the number of leases.
    """
    of_them = "state = 'open' AND gateway = $1 AND epoch <> $2"
    leases = await _locked(tx, of_them, owner.gateway, owner.epoch)
    await _end(tx, leases, "the gateway was killed: what it had leased and not accounted for")
    return len(leases)


async def recover_silent_gateways(tx: Tx, owner: Owner, silent_s: float) -> int:
    """Recovers the open leases of other gateways without a heartbeat for `silent_s`."""
    of_them = (
        "state = 'open' AND gateway <> $1 AND gateway NOT IN"
        " (SELECT name FROM gateway WHERE seen_unix_us >= $2)"
    )
    leases = await _locked(tx, of_them, owner.gateway, _now_us() - round(silent_s * 1e6))
    note = f"gateway silent for {silent_s:g} s: what it had leased and not accounted for"
    await _end(tx, leases, note)
    return len(leases)


async def return_unspent(tx: Tx, unspent: Mapping[str, int], note: str) -> None:
    """Takes back what was booked as spent, and is known not to have been. `unspent`: nano-USD by
    lease, of which at most what is booked returns. Does nothing for a lease that has a row with
    this note already."""
    leases = await _without_note(tx, await _locked_of(tx, unspent), note)
    returned = [
        (lease, min(unspent[lease.lease_id], lease.recovered_nano_usd))
        for lease in leases
        if lease.recovered_nano_usd > 0
    ]
    # Of an open lease the grant covered the amount as well: its end returns what is not settled.
    await tx.run(
        f"{_with_given(tx)} UPDATE lease SET recovered_nano_usd = recovered_nano_usd - amount,"
        " settled_nano_usd = settled_nano_usd - CASE state WHEN 'open' THEN amount ELSE 0 END,"
        " granted_nano_usd = granted_nano_usd - CASE state WHEN 'open' THEN amount ELSE 0 END"
        " FROM given WHERE lease_id = id",
        _json({lease.lease_id: nano_usd for lease, nano_usd in returned}),
    )
    amounts = [(lease, -nano_usd) for lease, nano_usd in returned]
    await _book(tx, amounts, RowState.CORRECTION, note)


async def _locked(tx: Tx, where: str, *values: object) -> list[_Lease]:
    """Locks leases and returns them. One that another gateway has recovered meanwhile does not come
    with `state = 'open'`."""
    rows = await tx.rows(
        "SELECT lease_id, granted_nano_usd - settled_nano_usd, recovered_nano_usd, tenant, key_id,"
        f" session_id, opened_unix_us, accounts FROM lease WHERE {where} ORDER BY lease_id"
        f"{_FOR_UPDATE[tx.dialect]}",
        *values,
    )
    return [_Lease(*row) for row in rows]


async def _locked_of(tx: Tx, amounts: Mapping[str, int]) -> list[_Lease]:
    """Locks these leases and returns those that there are."""
    of_them = f"lease_id IN (SELECT id FROM ({_GIVEN[tx.dialect]}) AS given)"
    return await _locked(tx, of_them, _json(amounts))


async def _without_note(tx: Tx, leases: Sequence[_Lease], note: str) -> list[_Lease]:
    """Those of locked leases that have no row with this note. A statement of its own: one that
    waits for a lock does not see the rows that came meanwhile."""
    noted = await tx.rows(
        f"{_with_given(tx)} SELECT id FROM given WHERE EXISTS"
        f" (SELECT 1 FROM attempt WHERE epoch = {_EPOCH} AND note = $2)",
        *(_json({lease.lease_id: 0 for lease in leases}), note),
    )
    known = {lease_id for (lease_id,) in noted}
    return [lease for lease in leases if lease.lease_id not in known]


async def _end(tx: Tx, leases: Sequence[_Lease], note: str) -> None:
    """Ends leases. All that they have not settled counts as spent."""
    await tx.run(
        f"{_with_given(tx)} UPDATE lease SET state = 'recovered', closed_unix_us = $2"
        " WHERE lease_id IN (SELECT id FROM given)",
        *(_json({lease.lease_id: lease.rest_nano_usd for lease in leases}), _now_us()),
    )
    await _recover(tx, [(lease, lease.rest_nano_usd) for lease in leases], note)


async def _recover(tx: Tx, amounts: Sequence[tuple[_Lease, int]], note: str) -> None:
    """Books an unsettled part of each lease as spent, nano-USD."""
    amounts = [(lease, nano_usd) for lease, nano_usd in amounts if nano_usd > 0]
    await tx.run(
        f"{_with_given(tx)} UPDATE lease SET settled_nano_usd = settled_nano_usd + amount,"
        " recovered_nano_usd = recovered_nano_usd + amount FROM given WHERE lease_id = id",
        _json({lease.lease_id: nano_usd for lease, nano_usd in amounts}),
    )
    await _book(tx, amounts, RowState.LEASE_RECOVERY, note)


async def _book(tx: Tx, amounts: Sequence[tuple[_Lease, int]], state: RowState, note: str) -> None:
    """Writes a row for each lease, and adds its amount to the accounts of the lease. What is not
    spent was committed before and is so no more."""
    if not amounts:
        return
    given = _json({lease.lease_id: nano_usd for lease, nano_usd in amounts})
    await tx.run(
        f"{_with_given(tx)} INSERT INTO fold (epoch, folded_seq) SELECT {_EPOCH}, -1 FROM given"
        " WHERE true ON CONFLICT (epoch) DO NOTHING",
        given,
    )
    last = await tx.rows(
        f"{_with_given(tx)} SELECT id, (SELECT MAX(seq) FROM attempt WHERE epoch = {_EPOCH})"
        " FROM given",
        given,
    )
    seqs = {lease_id: 0 if seq is None else seq + 1 for lease_id, seq in last}
    now_us = _now_us()
    rows = [
        bare_row(
            epoch=recovery_epoch(lease.lease_id),
            seq=seqs[lease.lease_id],
            state=state.value,
            tenant=lease.tenant,
            key_id=lease.key_id,
            session_id=lease.session_id,
            # The start of the lease is in the windows of the budgets that it drew on.
            started_unix_us=lease.opened_unix_us,
            ended_unix_us=now_us,
            charged_nano_usd=nano_usd,
            budgeted_nano_usd=nano_usd,
            lease_id=lease.lease_id,
            note=note,
        )
        for lease, nano_usd in amounts
    ]
    await tx.many(INSERT, rows)
    added: dict[str, tuple[int, int]] = {}
    for lease, nano_usd in amounts:
        for name in account_ids(lease.accounts):
            add_to(added, name, nano_usd, min(nano_usd, 0))
    await apply(tx, added)


def _with_given(tx: Tx) -> str:
    return f"WITH given AS ({_GIVEN[tx.dialect]})"


def _json(amounts: Mapping[str, int]) -> str:
    return msgspec.json.encode(amounts).decode()


def _now_us() -> int:
    return round(time.time() * 1e6)
