"""Runs the lines of a batch: each as its route would answer it, without a connection."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from gateway.batch.intake import ItemHead, LineHead, openai_line
from gateway.batch.jobs import JOB_PREFIX, Item
from gateway.batch.quotes import ItemQuote, ItemRefused, item_quote
from gateway.batch.running.execution import ItemAnswer, ItemCall
from gateway.batch.running.retries import Retry, retry_of
from gateway.domain.failures import UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestRefused
from gateway.domain.tags import item_labels
from gateway.doors.http.answers import encode
from gateway.doors.http.dialect import Handler
from gateway.doors.http.errors import HttpError, from_outcome
from gateway.doors.http.exchange import CallMade, Exchange, Services
from gateway.doors.http.terms import Terms
from gateway.doors.openai.wire.errors import error_object

_ENDS = (RequestRefused, PartialOutput, UpstreamFailure)
_line = msgspec.json.Decoder(LineHead).decode


class LineExecution:
    """Implements `Execution` for lines in OpenAI's batch format. Responses of a batch are not kept
    for `previous_response_id`, because they belong to no conversation."""

    def __init__(self, services: Services, handlers: Mapping[str, Handler]) -> None:
        """`handlers`: of each path that a line may name."""
        self._services = services
        self._handlers = handlers

    def read(self, content: bytes, endpoint: str) -> ItemHead:
        """See `Execution`."""
        return openai_line(content, endpoint)

    async def run(self, call: ItemCall) -> ItemAnswer:
        """See `Execution`."""
        exchange = self._exchange(call)
        retry: Retry | None = None
        try:
            response = await self._handlers[call.endpoint](exchange)
            assert isinstance(response, web.Response)
            assert isinstance(response.body, bytes)
            status, body = response.status, response.body
        except HttpError as error:
            status, body = error.status, encode({"error": error_object(error)})
            if isinstance(error.__cause__, _ENDS):
                retry = retry_of(error.__cause__)
        except _ENDS as error:
            told = from_outcome(error)
            status, body = told.status, encode({"error": error_object(told)})
            retry = retry_of(error)
        content = encode(
            {
                "id": _result_id(call.request_id),
                "custom_id": call.item.custom_id,
                "response": {
                    "status_code": status,
                    "request_id": call.request_id,
                    "body": msgspec.Raw(body),
                },
                "error": None,
            }
        )
        return ItemAnswer.of(content, exchange.finished, is_ok=status == 200, retry=retry)

    async def quote(self, call: ItemCall) -> ItemQuote:
        """See `Execution`."""
        try:
            await self._handlers[call.endpoint](self._exchange(call, is_quoted=True))
        except CallMade as made:
            try:
                decision, _ = await self._services.pipeline.quote(made.call)
            except RequestRefused as refused:
                raise ItemRefused(str(refused)) from refused
            return item_quote(decision)
        except (HttpError, *_ENDS) as error:
            raise ItemRefused(str(error)) from error
        raise AssertionError(f"{call.endpoint} makes no call")

    def _exchange(self, call: ItemCall, *, is_quoted: bool = False) -> Exchange:
        terms, body = call.terms, bytes(_line(call.content).body)
        exchange = Exchange(
            request=None,
            given_body=body,
            caller=call.caller,
            services=self._services,
            terms=Terms(
                remaining_s=call.remaining_s,
                slo_class=call.slo_class,
                priority=terms.priority,
                local_only=terms.local_only,
                remote_classes=terms.remote_classes,
                session_id=terms.session_id,
                max_cost_nano_usd=call.max_cost_nano_usd,
                labels_json=item_labels(call.job_id, terms.labels_json, line_labels(body)),
            ),
            parameters={},
            request_id=call.request_id,
            default_end_user=terms.end_user,
            on_start=lambda _: call.on_start(),
            is_quoted=is_quoted,
        )
        exchange.body_bytes = len(exchange.given_body)
        return exchange

    def failed(self, job_id: str, item: Item, code: str, message: str) -> bytes:
        """See `Execution`."""
        return encode(
            {
                "id": _result_id(f"{job_id}-{item.number}"),
                "custom_id": item.custom_id,
                "response": None,
                "error": {"code": code, "message": message},
            }
        )


class _Tagged(msgspec.Struct):
    metadata: dict[str, str] | None = None


_tagged = msgspec.json.Decoder(_Tagged).decode


def line_labels(body: bytes) -> dict[str, str]:
    """Pairs that the body of a line brings as `metadata`; those that can be labels are. None if it
    is no object of texts: the line runs nevertheless."""
    try:
        return _tagged(body).metadata or {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _result_id(request_id: str) -> str:
    return f"batch_req_{request_id.removeprefix(JOB_PREFIX)}"
