"""One request: its attempts, what they cost, and why it ran where it did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.doors.console.problems import Problem
from gateway.doors.console.routes import Page
from gateway.doors.console.visits import Visit
from moegate.v1 import inference_pb2, usage_pb2

MOST_ROWS = 200
"""Rows of one request that are shown."""
_UNTOLD = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)


@dataclass(frozen=True, slots=True)
class Decision:
    """The newest decision on a request. `untold`: why there is none to show; empty: there is."""

    explained: inference_pb2.ExplainResponse | None
    untold: str = ""


async def _page(visit: Visit) -> web.Response:
    request_id, key_id = visit.query.get("id", ""), visit.query.get("key_id", "")
    if not request_id:
        raise Problem(400, "This cannot be shown", "Give the id of a request.")
    rows, decision = await asyncio.gather(
        _rows(visit, request_id, key_id), _decision(visit, request_id, key_id)
    )
    if not rows and decision.explained is None:
        text = f"No request {request_id[:200]} is known that you may see."
        raise Problem(404, "There is no such request", text)
    attempts = [row for row in rows if row.attempt]
    return await visit.page(
        "request.html",
        request_id=request_id,
        first=rows[0] if rows else None,
        attempts=attempts,
        metered=_sum(attempts, "metered_nano_usd"),
        charged=_sum(rows, "charged_nano_usd"),
        labels=_labels(rows),
        decision=decision,
        duration_of=_duration_s,
    )


async def _rows(visit: Visit, request_id: str, key_id: str) -> list[usage_pb2.AttemptRow]:
    """Rows of the ledger, oldest first."""
    query = visit.query
    times = {name: _time(query.get(name, "")) for name in ("from", "to")}
    request = usage_pb2.ExportAttemptsRequest(
        tenant=query.get("tenant", ""),
        request_id=request_id,
        **times,
    )
    found: list[usage_pb2.AttemptRow] = []
    call = visit.calls.usage.ExportAttempts(request, **visit.rpc)
    try:
        async for answer in call:
            found += [row for row in answer.rows if key_id in ("", row.key_id)]
            if len(found) >= MOST_ROWS:
                break
    finally:
        call.cancel()
    return found[:MOST_ROWS]


async def _decision(visit: Visit, request_id: str, key_id: str) -> Decision:
    request = inference_pb2.ExplainRequest(request_id=request_id, key_id=key_id)
    try:
        return Decision(await visit.calls.inference.Explain(request, **visit.rpc))
    except grpc.aio.AioRpcError as error:
        if error.code() not in _UNTOLD:
            raise
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return Decision(None, "It is no longer remembered: the gateway keeps the newest ones.")
        return Decision(None, "It is told to the key that sent the request, and to operators.")


def _time(text: str) -> Timestamp | None:
    """A time of the query, Unix microseconds; None: it is absent. Raises Problem."""
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Problem(400, "This cannot be shown", "The times of the request are no times.")
    at = Timestamp()
    try:
        at.FromMicroseconds(int(text))
    except ValueError:
        raise Problem(400, "This cannot be shown", "The times are out of range.") from None
    return at


def _sum(rows: list[usage_pb2.AttemptRow], name: str) -> int | None:
    """The sum of the amounts that are known; None: none is."""
    amounts = [getattr(row, name) for row in rows if row.HasField(name)]
    return sum(amounts) if amounts else None


def _labels(rows: list[usage_pb2.AttemptRow]) -> Mapping[str, str]:
    text = next((row.labels_json for row in rows if row.labels_json), "{}")
    found: dict[str, str] = json.loads(text)
    return found


def _duration_s(row: usage_pb2.AttemptRow) -> float:
    return (row.ended_at.ToMicroseconds() - row.started_at.ToMicroseconds()) / 1e6


REQUEST_PAGES = (Page(path="/requests/one", handle=_page),)
