"""The audit log: what was done to a running gateway, who did it, and how it stood before and after.

Rows are only added, and deleted when they are older than `ledger.retain_audit_days`. They hold no
secrets and no hashes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.accounting.ledger.database import Tx

MAX_JSON_CHARACTERS = 8192
"""Longest text of how something stood; a longer one is cut."""
_COLUMNS = "event_id, at_unix_us, actor, action, tenant, target, before_json, after_json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One action.

    Attributes:
        actor: the id of a key, or the person that signed in.
        action: name of the RPC.
        tenant: that it concerns; empty: none.
        target: what it was done to.
        before, after: how that stood; None: it was not there, or is gone.
    """

    actor: str
    action: str
    tenant: str = ""
    target: str = ""
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """A row. `at_us`: Unix microseconds. `before_json`, `after_json`: empty: None."""

    event_id: int
    at_us: int
    actor: str
    action: str
    tenant: str
    target: str
    before_json: str
    after_json: str


async def record(tx: Tx, event: Event) -> None:
    """Adds an event."""
    [(number,)] = await tx.rows(
        "UPDATE access SET events = events + 1 WHERE one = 0 RETURNING events"
    )
    await tx.run(
        f"INSERT INTO audit ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        *(number, time.time_ns() // 1000, event.actor, event.action, event.tenant, event.target),
        *(_text(event.before), _text(event.after)),
    )


async def events(
    tx: Tx, *, tenant: str, actor: str, target: str, before_id: int, limit: int
) -> list[RecordedEvent]:
    """Events with numbers below `before_id`, newest first. Empty texts select all."""
    conditions: list[str] = ["event_id < $1"]
    values: list[object] = [before_id, limit]
    for column, value in (("tenant", tenant), ("actor", actor), ("target", target)):
        if value:
            values.append(value)
            conditions.append(f"{column} = ${len(values)}")
    rows = await tx.rows(
        f"SELECT {_COLUMNS} FROM audit WHERE {' AND '.join(conditions)}"
        " ORDER BY event_id DESC LIMIT $2",
        *values,
    )
    names = _COLUMNS.replace("at_unix_us", "at_us").split(", ")
    return [RecordedEvent(**dict(zip(names, row, strict=True))) for row in rows]


async def delete_old(tx: Tx, before_us: int) -> None:
    """Deletes events of before a time."""
    await tx.run("DELETE FROM audit WHERE at_unix_us < $1", before_us)


def _text(state: Mapping[str, object] | None) -> str:
    if state is None:
        return ""
    text = json.dumps(state, ensure_ascii=False)
    if len(text) <= MAX_JSON_CHARACTERS:
        return text
    return json.dumps({"cut": text[: MAX_JSON_CHARACTERS // 2]}, ensure_ascii=False)
