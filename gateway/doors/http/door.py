"""The HTTP door: what happens to a request before and after the handler of its dialect.

In this order: the number of requests in progress, the size of the headers, the route, the key, the
limits of the key. Only then the handler reads the body. Whatever fails is answered in the shape of
the dialect.
"""

from __future__ import annotations

import logging
import math
import secrets

from aiohttp import web

from gateway.auth.authenticator import Caller, Unauthenticated
from gateway.delivery.http_answers import send_answer
from gateway.delivery.watches import ShuttingDown
from gateway.domain.failures import UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestRefused
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.entry.key_limits import KeyLimits
from gateway.doors.entry.metadata_size import metadata_bytes
from gateway.doors.entry.refusals import CallRefused, scheduler_away
from gateway.doors.entry.tenant_calls import TenantCalls
from gateway.doors.http import errors
from gateway.doors.http.cors import cors_headers, preflight
from gateway.doors.http.dialect import Dialect, ErrorShapeOf, Found, Routes
from gateway.doors.http.errors import ErrorKind, HttpError
from gateway.doors.http.exchange import Exchange, Services, id_headers, lower_items
from gateway.doors.http.observer import HttpObserver, Observed
from gateway.doors.http.terms import terms_of
from scheduler.port import SchedulerAway

log = logging.getLogger(__name__)

LIVE, READY = "/livez", "/readyz"
"""Paths for probes, without a key: whether the process runs, and whether a placement serves."""


class HttpDoor:
    """Answers the requests of all dialects. `is_draining`: set at the beginning of a drain, after
    which every answer closes its connection."""

    def __init__(
        self,
        routes: Routes,
        services: Services,
        *,
        key_limits: KeyLimits,
        in_progress: CallsInProgress,
        tenant_calls: TenantCalls,
        observer: HttpObserver,
    ) -> None:
        self._routes = routes
        self._services = services
        self._key_limits = key_limits
        self._in_progress = in_progress
        self._tenant_calls = tenant_calls
        self._observer = observer
        self.is_draining = False

    async def handle(self, request: web.BaseRequest, *, is_last: bool) -> web.StreamResponse:
        """Answers one request. aiohttp runs each in a task of its own, which it cancels when the
        client goes away. `is_last`: the connection takes no further ones."""
        if request.path in (LIVE, READY):
            probed = self._probe(request)
            await self._send(request, probed)
            return probed
        found = self._routes.find(request.method, request.path, request.headers)
        with self._observer.observe(request, found) as observed:
            response = await self._respond(request, found, observed)
            if is_last or self.is_draining:
                response.force_close()
            if not response.prepared:
                response.headers.update(self._cors(request))
                await self._send(request, response)
        return response

    def _probe(self, request: web.BaseRequest) -> web.Response:
        serves = not self.is_draining and self._services.port.fleet.serves
        good = request.path == LIVE or serves
        return web.Response(status=200 if good else 503, text="ok\n" if good else "not serving\n")

    async def _respond(
        self,
        request: web.BaseRequest,
        found: Found | frozenset[str],
        observed: Observed,
    ) -> web.StreamResponse:
        request_id = secrets.token_hex(12)
        exchange: Exchange | None = None
        try:
            self._in_progress.check_server()
            self._check_headers(request)
            if not isinstance(found, Found):
                return self._unrouted(request, found)
            caller = self._caller(request)
            self._in_progress.begin()
            await self._tenant_calls.begin(caller.tenant, caller.tenant_rpcs)
            await self._key_limits.take_request(caller)
            terms = terms_of(request.headers)
            exchange = Exchange(
                request=request,
                caller=caller,
                services=self._services,
                terms=terms,
                parameters=found.parameters,
                request_id=terms.request_id or request_id,
            )
            return await self._run(found, exchange)
        except HttpError as error:
            failed = error
        except CallRefused as refusal:
            failed = errors.call_refused(refusal)
        except SchedulerAway:
            failed = errors.call_refused(scheduler_away())
        except (RequestRefused, PartialOutput, UpstreamFailure) as error:
            failed = errors.from_outcome(error)
        except ShuttingDown:
            failed = errors.shutting_down()
        except ConnectionError:
            raise  # the client has gone away
        except Exception:
            log.exception("a request failed inside the gateway")
            failed = errors.internal()
        finally:
            if exchange is not None and exchange.failed is not None:
                observed.failed = exchange.failed
        observed.failed = failed
        if exchange is not None:
            request_id = exchange.request_id
        dialect = found.dialect if isinstance(found, Found) else self._spoken(request)
        extra = {} if exchange is None else exchange.answer_headers()
        return error_response(dialect.error, failed, request_id, extra)

    async def _run(self, found: Found, exchange: Exchange) -> web.StreamResponse:
        if found.route.generates:
            return await found.route.handle(exchange)
        await self._key_limits.take_slot(exchange.caller)
        try:
            return await found.route.handle(exchange)
        finally:
            self._key_limits.free_slot(exchange.caller)

    def _spoken(self, request: web.BaseRequest) -> Dialect:
        return self._routes.spoken(request.headers)

    def _check_headers(self, request: web.BaseRequest) -> None:
        size = metadata_bytes(request.headers.items())
        most = self._services.active.config.limits.metadata_bytes
        if size > most:
            text = f"the headers have {size} bytes: at most {most}, limits.metadata_bytes"
            raise HttpError(ErrorKind.INVALID, text, code="headers_too_large", status=431)

    def _unrouted(self, request: web.BaseRequest, methods: frozenset[str]) -> web.StreamResponse:
        """Answers a preflight. Raises HttpError for anything else without a route."""
        self._in_progress.begin_keyless()
        allowed = preflight(request, methods, self._services.active.config.server.cors_origins)
        if allowed is not None:
            return allowed
        if methods:
            text = f"{request.method} is not a method of {request.path}: {', '.join(methods)}"
            raise HttpError(ErrorKind.INVALID, text, code="method_not_allowed", status=405)
        text = f"there is no {request.path[:200]} here"
        raise HttpError(ErrorKind.NOT_FOUND, text, code="unknown_path")

    def _caller(self, request: web.BaseRequest) -> Caller:
        try:
            return self._services.active.authenticator.authenticate(lower_items(request.headers))
        except Unauthenticated as error:
            raise HttpError(ErrorKind.AUTHENTICATION, str(error), code="invalid_api_key") from None

    def _cors(self, request: web.BaseRequest) -> dict[str, str]:
        return cors_headers(request, self._services.active.config.server.cors_origins)

    async def _send(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        await send_answer(request, response, self._services.active.config.server.blocked_write_s)


def error_response(
    shape_of: ErrorShapeOf, error: HttpError, request_id: str, extra: dict[str, str]
) -> web.Response:
    """The answer for an error, with the words about retries that clients obey. `extra`: further
    headers."""
    shape = shape_of(error, request_id)
    headers = id_headers(request_id) | extra
    headers["x-should-retry"] = "true" if error.may_retry else "false"
    if error.retry_after_s is not None:
        # Whole seconds for everyone, milliseconds for the SDKs of OpenAI and Anthropic.
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    return web.Response(
        status=shape.status,
        body=shape.body,
        content_type="application/json",
        headers=headers | dict(shape.headers),
    )
