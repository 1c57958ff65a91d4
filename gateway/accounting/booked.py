"""Finds attempts that are booked already, so that none is booked twice after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.schema import RowState
from scheduler.contract import AttemptOutcome, PlacementKind, SloClass, Usage
from scheduler.metering.settlement import CostBasis, CostPart, SettledAttempt, TokenKind

PIECE = 500
"""Request ids of one statement."""
_COLUMNS = (
    *("request_id", "attempt", "key_id", "tenant", "session_id", "model", "slo_class"),
    *("placement", "pool", "kind", "outcome", "started_unix_us", "ended_unix_us"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "state"),
    *("metered_nano_usd", "charged_nano_usd", "basis", "price_row_id", "parts"),
    *("cheapest_remote_nano_usd", "last_attempt"),
)
_STATES = tuple(state.value for state in (RowState.FINAL, RowState.ESTIMATED, RowState.UNPRICED))


@dataclass(frozen=True, slots=True)
class Sought:
    """An attempt of a request, by the scheduler's request id. `since_unix_us`: its start; an
    earlier request may have had the same id."""

    request_id: str
    key_id: str
    attempt: int
    since_unix_us: int


async def booked(tx: Tx, sought: Sequence[Sought]) -> dict[tuple[str, int], SettledAttempt]:
    """Returns the accounts of those that are booked, by request id and attempt number."""
    wanted = {(_client_id(each), each.key_id, each.attempt): each for each in sought}
    ids = sorted({_client_id(each) for each in sought})
    since_us = min((each.since_unix_us for each in sought), default=0)
    found: dict[tuple[str, int], SettledAttempt] = {}
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        names = ", ".join(f"${number + 2}" for number in range(len(piece)))
        rows = await tx.rows(
            f"SELECT {', '.join(_COLUMNS)} FROM attempt WHERE ended_unix_us >= $1"
            f" AND request_id IN ({names})",
            *(since_us, *piece),
        )
        for row in rows:
            values = dict(zip(_COLUMNS, row, strict=True))
            each = wanted.get((values["request_id"], values["key_id"], values["attempt"]))
            is_it = each is not None and values["ended_unix_us"] >= each.since_unix_us
            if each is not None and is_it and values["state"] in _STATES:
                found[each.request_id, each.attempt] = _account(each.request_id, values)
    return found


def _client_id(sought: Sought) -> str:
    return sought.request_id.removeprefix(f"{sought.key_id}/")


def _account(request_id: str, row: dict[str, Any]) -> SettledAttempt:
    usage = None
    if row["prompt_tokens"] is not None:
        usage = Usage(
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            cached_tokens=row["cached_tokens"],
            reasoning_tokens=row["reasoning_tokens"],
            estimated=row["state"] == RowState.ESTIMATED,
        )
    parts = (
        msgspec.json.decode(row["parts"], type=list[tuple[str, int, int]]) if row["parts"] else ()
    )
    return SettledAttempt(
        request_id=request_id,
        attempt=row["attempt"],
        key_id=row["key_id"],
        tenant=row["tenant"],
        session_id=row["session_id"],
        model=row["model"],
        slo_class=SloClass(row["slo_class"]),
        placement=row["placement"],
        pool=row["pool"],
        kind=PlacementKind(row["kind"]),
        outcome=AttemptOutcome(row["outcome"]),
        started_unix_s=row["started_unix_us"] / 1e6,
        ended_unix_s=row["ended_unix_us"] / 1e6,
        usage=usage,
        metered_nano_usd=row["metered_nano_usd"],
        charged_nano_usd=row["charged_nano_usd"],
        basis=CostBasis(row["basis"]) if row["basis"] else None,
        price_row_id=row["price_row_id"],
        parts=tuple(
            CostPart(kind=TokenKind(kind), tokens=tokens, nano_usd=nano_usd)
            for kind, tokens, nano_usd in parts
        ),
        cheapest_remote_nano_usd=row["cheapest_remote_nano_usd"],
        final=bool(row["last_attempt"]),
    )
