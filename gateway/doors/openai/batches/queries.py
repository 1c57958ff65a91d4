"""What the routes of files and batches share: the owner, pages of lists, and refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.batch.port import BatchReason, BatchRefused, Owner, PageQuery
from gateway.doors.http.errors import ErrorKind, HttpError, invalid
from gateway.doors.http.exchange import Exchange

_KINDS = {
    BatchReason.NOT_FOUND: ErrorKind.NOT_FOUND,
    BatchReason.INVALID: ErrorKind.INVALID,
    BatchReason.LIMIT: ErrorKind.RATE_LIMIT,
    BatchReason.STATE: ErrorKind.CONFLICT,
    BatchReason.UNAVAILABLE: ErrorKind.UPSTREAM,
}
RETRY_S = 2.0
MAX_ID_CHARS = 128


def owner_of(exchange: Exchange) -> Owner:
    """The owner of what the key makes."""
    return Owner(tenant=exchange.caller.tenant, key_id=exchange.caller.key_id)


@asynccontextmanager
async def batch_errors() -> AsyncIterator[None]:
    """Turns a refusal of the batch lane into HttpError."""
    try:
        yield
    except BatchRefused as refused:
        kind = _KINDS[refused.reason]
        away = refused.reason is BatchReason.UNAVAILABLE
        raise HttpError(
            kind,
            refused.message,
            code=f"batch_{refused.reason.value}",
            param=refused.param,
            retry_after_s=RETRY_S if away else None,
            may_retry=away,
        ) from refused


def page_query(exchange: Exchange, *, default: int, most: int) -> PageQuery:
    """Reads `limit`, `after`, `order` and `purpose` of a list. Raises HttpError (INVALID)."""
    assert exchange.request is not None
    asked = exchange.request.query
    limit_text = asked.get("limit", str(default))
    limit = int(limit_text) if limit_text.isascii() and limit_text.isdecimal() else 0
    if len(limit_text) > 6 or not 1 <= limit <= most:
        raise invalid("limit", f"{limit_text[:20]!r}: give 1 to {most}")
    order = asked.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("order", f"{order[:20]!r}: give asc or desc")
    after, purpose = asked.get("after", ""), asked.get("purpose", "")
    if len(after) > MAX_ID_CHARS:
        raise invalid("after", "give the id of the last one of the page before")
    if "\0" in purpose:
        raise invalid("purpose", f"{purpose[:20]!r}: leave NUL characters out")
    return PageQuery(
        after=after, limit=limit, newest_first=order == "desc", purpose=purpose[:MAX_ID_CHARS]
    )
