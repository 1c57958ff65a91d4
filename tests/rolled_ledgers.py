"""Random rows of a ledger, and the sums over them that roll-ups must give."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.accounting.ledger.append import register_epoch
from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.ledger.rows import INSERT, bare_row
from gateway.accounting.ledger.schema import ATTEMPT_COLUMNS
from gateway.accounting.rollups.spend import Group

START_S = int(datetime(2026, 1, 30, 20, 30, tzinfo=UTC).timestamp())
Attempt = dict[str, Any]
LABEL = "team"
"""The label of `Group.LABEL`."""


def random_attempts(chance: random.Random, count: int, days: float) -> list[Attempt]:
    """Rows of every kind from two processes, and corrections."""
    seqs: dict[str, int] = defaultdict(int)
    found: list[Attempt] = []
    for _ in range(count):
        epoch = chance.choice(["a", "b"])
        remote = chance.random() < 0.3
        metered = None if chance.random() < 0.1 else chance.randint(0, 10**9)
        charged = None if chance.random() < 0.1 else chance.choice([0, chance.randint(1, 10**9)])
        third = (metered or 0) // 3
        parts = [["uncached_input", 5, third], ["output", 7, (metered or 0) - third]]
        row: Attempt = {
            "epoch": epoch,
            "state": "unpriced" if charged is None else chance.choice(["final", "estimated"]),
            "attempt": chance.choice([1, 1, 1, 2]),
            "key_id": chance.choice(["k1", "k2"]),
            "tenant": chance.choice(["search", "ads"]),
            "session_id": chance.choice(["", "s1", "s2", 'it\'s a "session"']),
            "end_user": chance.choice(["", "", "u1", "Zoë"]),
            "labels": chance.choice(["", '{"team":"a"}', '{"app.x-y":"it\'s","team":"b \\" c"}']),
            "model": chance.choice(["moe", "big"]),
            "placement": "cloud" if remote else chance.choice(["own/a", "own/b"]),
            "pool": "" if remote else "own",
            "kind": "remote" if remote else "local",
            "outcome": chance.choice(["ok", "ok", "retryable", "failed", "cancelled"]),
            "ended_unix_us": START_S * 10**6 + int(chance.random() * days * 86_400e6),
            "prompt_tokens": chance.choice([None, chance.randint(0, 5000)]),
            "cached_tokens": chance.choice([None, 0, 3]),
            "completion_tokens": chance.choice([None, chance.randint(0, 900)]),
            "metered_nano_usd": metered,
            "charged_nano_usd": charged,
            "parts": "" if metered is None else json.dumps(parts),
            "cheapest_remote_nano_usd": chance.choice([None, chance.randint(0, 10**6)]),
        }
        if chance.random() < 0.1:
            row |= {"epoch": f"correction-{epoch}-{len(found)}", "state": "correction"}
            row |= {"attempt": 0, "metered_nano_usd": None, "charged_nano_usd": -5, "parts": ""}
            row |= {"cheapest_remote_nano_usd": None}
        row["seq"] = seqs[row["epoch"]]
        seqs[row["epoch"]] += 1
        found.append(row)
    return found


async def insert(tx: Tx, attempts: Iterable[Attempt]) -> None:
    """Writes rows in their order, as processes would."""
    for attempt in attempts:
        await register_epoch(tx, attempt["epoch"])
        full = {"started_unix_us": attempt["ended_unix_us"], **attempt}
        await tx.many(INSERT, [bare_row(**full)])


def expected(
    attempts: Iterable[Attempt], selection: Selection, groups: Sequence[Group]
) -> dict[tuple[str, ...], dict[str, int]]:
    """The sums, computed from the rows one by one."""
    sums: dict[tuple[str, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in attempts:
        if not selection.from_us <= row["ended_unix_us"] < selection.to_us:
            continue
        if any(row[column] != value for column, value in selection.filters()):
            continue
        if Group.LABEL in groups and LABEL not in json.loads(row["labels"] or "{}"):
            continue
        into = sums[tuple(_value(row, group) for group in groups)]
        is_attempt = row["attempt"] > 0
        metered, charged = row["metered_nano_usd"], row["charged_nano_usd"]
        into["requests"] += row["attempt"] == 1
        into["attempts"] += is_attempt
        if row["prompt_tokens"] is not None:
            into["uncached_input_tokens"] += row["prompt_tokens"] - (row["cached_tokens"] or 0)
        into["cached_input_tokens"] += row["cached_tokens"] or 0
        into["output_tokens"] += row["completion_tokens"] or 0
        into["own_nano_usd" if row["kind"] == "local" else "remote_nano_usd"] += metered or 0
        if charged == 0 and row["outcome"] not in ("ok", "cancelled"):
            into["wasted_nano_usd"] += metered or 0
        into["metered_attempts"] += is_attempt and metered is not None
        for kind, _, amount in json.loads(row["parts"] or "[]"):
            into[f"{kind}_nano_usd"] += amount
        into["charged_nano_usd"] += charged or 0
        into["unpriced_attempts"] += row["state"] == "unpriced"
        into["estimated_attempts"] += row["state"] == "estimated"
        into["corrected_nano_usd"] += charged if row["state"] == "correction" else 0
        into["cheapest_remote_nano_usd"] += row["cheapest_remote_nano_usd"] or 0
        into["cheapest_remote_attempts"] += row["cheapest_remote_nano_usd"] is not None
    return sums


def _value(row: Attempt, group: Group) -> str:
    at = datetime.fromtimestamp(row["ended_unix_us"] // 10**6, UTC)
    match group:
        case Group.HOUR:
            return f"{at:%Y-%m-%dT%H}:00Z"
        case Group.DAY:
            return f"{at:%Y-%m-%d}"
        case Group.WEEK:
            monday = datetime.fromtimestamp(at.timestamp() - at.weekday() * 86_400, UTC)
            return f"{monday:%Y-%m-%d}"
        case Group.MONTH:
            return f"{at:%Y-%m}"
        case Group.YEAR:
            return f"{at:%Y}"
        case Group.LABEL:
            return str(json.loads(row["labels"])[LABEL])
    column = {Group.KEY: "key_id", Group.SESSION: "session_id"}.get(group, group.value)
    assert column in ATTEMPT_COLUMNS
    return str(row[column])
