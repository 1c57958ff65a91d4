"""Requests with all their attempts: the dearest, the longest, the newest."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.accounting.ledger.database import Dialect, Row, Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.rollups.columns import label_value


class RequestOrder(enum.StrEnum):
    """Order of requests, the largest first."""

    CHARGED = "charged"
    METERED = "metered"
    TOKENS = "tokens"
    DURATION = "duration"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFilter:
    """Which requests; "" selects every value, `min_charged_nano_usd` 0 every charge. `labels`:
    values by key, all of which a request must have."""

    selection: Selection
    session_id: str = ""
    placement: str = ""
    outcome: str = ""
    end_user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    min_charged_nano_usd: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCost:
    """One request. Times in Unix microseconds; amounts in nano-USD; None: unknown.

    `prompt_tokens`, `cached_tokens`: of the attempt with the longest prompt; `completion_tokens`:
    of all attempts; `placements`: with commas between them.
    """

    tenant: str
    key_id: str
    request_id: str
    session_id: str
    model: str
    slo_class: str
    placements: str
    outcome: str
    attempts: int
    started_unix_us: int
    ended_unix_us: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    metered_nano_usd: int | None
    charged_nano_usd: int | None


_PLACEMENTS = {
    Dialect.SQLITE: "GROUP_CONCAT(DISTINCT placement)",
    Dialect.POSTGRES: "STRING_AGG(DISTINCT placement, ',')",
}
_TOKENS = "COALESCE(MAX(prompt_tokens), 0) + COALESCE(SUM(completion_tokens), 0)"
_ORDERS = {
    RequestOrder.CHARGED: "COALESCE(SUM(charged_nano_usd), -1)",
    RequestOrder.METERED: "COALESCE(SUM(metered_nano_usd), -1)",
    RequestOrder.TOKENS: _TOKENS,
    RequestOrder.DURATION: "MAX(ended_unix_us) - MIN(started_unix_us)",
    RequestOrder.ENDED: "MAX(ended_unix_us)",
}


async def list_requests(
    tx: Tx, wanted: RequestFilter, order: RequestOrder, limit: int
) -> list[RequestCost]:
    """At most `limit` requests with an attempt that ended in the window. Reads every row of it."""
    selection = wanted.selection
    values: list[object] = [selection.from_us, selection.to_us]

    def value(given: object) -> str:
        values.append(given)
        return f"${len(values)}"

    where = "ended_unix_us >= $1 AND ended_unix_us < $2 AND request_id <> ''"
    having = []
    of_request = (("session_id", wanted.session_id), ("end_user", wanted.end_user))
    for column, text in [*selection.filters(), *of_request]:
        if text:
            where += f" AND {column} = {value(text)}"
    for key, text in wanted.labels.items():
        where += f" AND {label_value(tx.dialect, key)} = {value(text)}"
    for column, text in (("placement", wanted.placement), ("outcome", wanted.outcome)):
        if text:
            having.append(f"SUM(CASE WHEN {column} = {value(text)} THEN 1 ELSE 0 END) > 0")
    if wanted.min_charged_nano_usd > 0:
        having.append(f"SUM(charged_nano_usd) >= {value(wanted.min_charged_nano_usd)}")
    last = "MAX(CASE WHEN last_attempt = 1 AND attempt > 0 THEN outcome END)"
    columns = (
        *("tenant", "key_id", "request_id", "MAX(session_id)", "MAX(model)", "MAX(slo_class)"),
        _PLACEMENTS[tx.dialect],
        f"COALESCE({last}, MAX(outcome))",
        "CAST(SUM(CASE WHEN attempt > 0 THEN 1 ELSE 0 END) AS BIGINT)",
        *("MIN(started_unix_us)", "MAX(ended_unix_us)", "COALESCE(MAX(prompt_tokens), 0)"),
        "COALESCE(MAX(cached_tokens), 0)",
        "CAST(COALESCE(SUM(completion_tokens), 0) AS BIGINT)",
        *("CAST(SUM(metered_nano_usd) AS BIGINT)", "CAST(SUM(charged_nano_usd) AS BIGINT)"),
    )
    sql = (
        f"SELECT {', '.join(columns)} FROM attempt WHERE {where}"
        " GROUP BY tenant, key_id, request_id"
        f"{' HAVING ' + ' AND '.join(having) if having else ''}"
        f" ORDER BY {_ORDERS[order]} DESC, tenant, key_id, request_id LIMIT {int(limit)}"
    )
    return [_request(row) for row in await tx.rows(sql, *values)]


def _request(row: Row) -> RequestCost:
    return RequestCost(**dict(zip(RequestCost.__slots__, row, strict=True)))
