"""`/v1/batches`."""

from __future__ import annotations

import re

import msgspec
from aiohttp import web

from gateway.batch.intake import ENDPOINTS
from gateway.batch.jobs import Form, Job, JobDraft, JobTerms
from gateway.config.money import usd_text
from gateway.doors.http.answers import json_answer
from gateway.doors.http.errors import ErrorKind, HttpError, invalid
from gateway.doors.http.exchange import Exchange
from gateway.doors.openai.batches.queries import batch_errors, owner_of, page_query
from gateway.doors.openai.batches.shapes import batch_object, page, quote_object
from scheduler.contract import SloClass

MOST_PAIRS, MAX_KEY_CHARS, MAX_VALUE_CHARS = 16, 64, 512
LONGEST_WINDOW_S = 30 * 86_400
_WINDOW = re.compile(r"([1-9][0-9]{0,6})([smhd])\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class BatchBody(msgspec.Struct, kw_only=True):
    """The body of POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


_decode = msgspec.json.Decoder(BatchBody).decode


async def create_batch(exchange: Exchange) -> web.StreamResponse:
    """POST /v1/batches. Terms of service come in the headers, as of any other request."""
    draft = await _draft(exchange)
    async with batch_errors():
        job = await exchange.services.batches.submit(owner_of(exchange), draft)
    return _answer(exchange, job)


async def quote_batch(exchange: Exchange) -> web.StreamResponse:
    """POST /v1/batches/quote: what a batch of the same body would cost, and when it would end."""
    draft = await _draft(exchange)
    async with batch_errors():
        quote = await exchange.services.batches.quote(owner_of(exchange), draft)
    return json_answer(exchange, quote_object(quote))


async def _draft(exchange: Exchange) -> JobDraft:
    body = await exchange.body(_decode)
    if body.endpoint not in ENDPOINTS:
        text = f"{body.endpoint[:80]!r}: give one of {', '.join(ENDPOINTS)}"
        raise invalid("endpoint", text)
    check_class(exchange)
    terms = exchange.terms
    return JobDraft(
        form=Form.OPENAI,
        file_id=body.input_file_id[:128],
        endpoint=body.endpoint,
        deadline_s=window_s(body.completion_window),
        terms=JobTerms(
            local_only=terms.local_only,
            remote_classes=terms.remote_classes,
            priority=terms.priority,
            session_id=terms.session_id,
            max_cost_nano_usd=terms.max_cost_nano_usd,
            metadata=checked_metadata(body.metadata or {}),
            labels_json=terms.labels_json,
            end_user=terms.end_user,
        ),
    )


async def list_batches(exchange: Exchange) -> web.StreamResponse:
    """GET /v1/batches."""
    query = page_query(exchange, default=20, most=100)
    async with batch_errors():
        found = await exchange.services.batches.jobs(owner_of(exchange), query)
    return json_answer(exchange, page([*map(batch_object, found.jobs)], has_more=found.has_more))


async def retrieve_batch(exchange: Exchange) -> web.StreamResponse:
    """GET /v1/batches/{batch_id}."""
    async with batch_errors():
        job = await exchange.services.batches.job(
            owner_of(exchange), exchange.parameters["batch_id"]
        )
    return _answer(exchange, job)


async def cancel_batch(exchange: Exchange) -> web.StreamResponse:
    """POST /v1/batches/{batch_id}/cancel."""
    async with batch_errors():
        job = await exchange.services.batches.cancel(
            owner_of(exchange), exchange.parameters["batch_id"]
        )
    return _answer(exchange, job)


def _answer(exchange: Exchange, job: Job) -> web.StreamResponse:
    exchange.headers["x-moegate-cost-usd"] = usd_text(job.charged_nano_usd)
    return json_answer(exchange, batch_object(job))


def window_s(text: str) -> float:
    """Seconds of a completion window such as 24h. Raises HttpError (INVALID)."""
    found = _WINDOW.match(text)
    seconds = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not 1 <= seconds <= LONGEST_WINDOW_S:
        raise invalid("completion_window", f"{text[:20]!r}: give a time such as 24h, 90m or 7d")
    return float(seconds)


def checked_metadata(pairs: dict[str, str]) -> dict[str, str]:
    """The caller's pairs, within OpenAI's bounds. Raises HttpError (INVALID)."""
    if len(pairs) > MOST_PAIRS:
        raise invalid("metadata", f"{len(pairs)} pairs: give at most {MOST_PAIRS}")
    for key, value in pairs.items():
        if len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS or "\0" in key + value:
            text = f"{key[:40]!r}: a key has at most {MAX_KEY_CHARS} characters, a value"
            raise invalid("metadata", f"{text} {MAX_VALUE_CHARS}, none is NUL")
    return pairs


def check_class(exchange: Exchange) -> None:
    """Raises HttpError (PERMISSION) if the key may not use the class batch."""
    caller = exchange.caller
    if not caller.allows_slo_class(SloClass.BATCH):
        mine = ", ".join(caller.slo_classes)
        text = f"key {caller.key_id} may use the classes {mine}: a batch needs the class batch"
        raise HttpError(ErrorKind.PERMISSION, text)
