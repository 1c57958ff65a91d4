"""The console's door: what happens to a request before and after the function of its page.

In this order: the number of requests in progress, the size of the headers, the page, who asks, the
role, the form. Every answer carries headers that let the browser load and send nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from urllib.parse import quote

import grpc
from aiohttp import web

from gateway.delivery.http_answers import send_answer
from gateway.doors.console.assets import PREFIX, Assets
from gateway.doors.console.forms import check_token, received_form
from gateway.doors.console.problems import Problem, of_rpc
from gateway.doors.console.rendering import LIVE_HEADER, Rendering
from gateway.doors.console.routes import Found, Page, Routes
from gateway.doors.console.visitor import SignedIn, visitor_of
from gateway.doors.console.visits import Services, Visit
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.entry.metadata_size import metadata_bytes
from gateway.doors.entry.refusals import CallRefused

log = logging.getLogger(__name__)

SIGN_IN = "/sign-in"
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer browsers would send the origin of forms as "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_PROBLEM_PAGE = Page(path="", handle=lambda visit: visit.page("problem.html"), roles=frozenset())


class ConsoleDoor:
    """Answers the requests of the console. `is_draining`: set at the beginning of a drain, after
    which every answer closes its connection."""

    def __init__(
        self,
        routes: Routes,
        services: Services,
        signed_in: SignedIn,
        rendering: Rendering,
        assets: Assets,
        in_progress: CallsInProgress,
    ) -> None:
        self._routes = routes
        self._services = services
        self._signed_in = signed_in
        self._rendering = rendering
        self._assets = assets
        self._in_progress = in_progress
        self.is_draining = False

    async def handle(self, request: web.BaseRequest, *, is_last: bool) -> web.StreamResponse:
        """Answers one request. aiohttp runs each in a task of its own, which it cancels when the
        client goes away. `is_last`: the connection takes no further ones."""
        response = await self._respond(request)
        response.headers.update(SECURITY_HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        if self._services.is_https:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        if is_last or self.is_draining:
            response.force_close()
        await self._send(request, response)
        return response

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except Problem as error:
            problem = error
        except grpc.aio.AioRpcError as error:
            problem = of_rpc(error)
        except CallRefused as refusal:
            problem = Problem(503, "The gateway has too much to do", str(refusal))
        except ConnectionError:
            raise  # the client has gone away
        except Exception:
            log.exception("a page of the console failed")
            problem = Problem(500, "This page failed", "The log of the gateway says more.")
        return await self._show(request, problem)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_progress.check_server()
        size = metadata_bytes(request.headers.items())
        most = self._services.active.config.limits.metadata_bytes
        if size > most:
            text = f"They have {size} bytes: at most {most}, limits.metadata_bytes."
            raise Problem(431, "The headers are too large", text)
        if request.path.startswith(PREFIX) and request.method in ("GET", "HEAD"):
            found_file = self._assets.answer(request.path, request.query.get("v", ""))
            if found_file is not None:
                return found_file
        found = self._routes.find(request.method, request.rel_url.raw_path)
        if not isinstance(found, Found):
            self._in_progress.begin_keyless()
            raise _unrouted(request, found)
        visit = self._visit(request, found)
        if visit.somebody is None:
            self._in_progress.begin_keyless()
        else:
            self._in_progress.begin()
        page = found.page
        if page.roles:
            if visit.somebody is None:
                return _to_sign_in(visit)
            if visit.visitor.caller.role not in page.roles:
                raise _denied(visit, page)
        if page.method == "POST":
            visit = await self._with_form(visit)
        if page.live is not None and LIVE_HEADER in request.headers:
            return await self._rendering.live_answer(page.live, visit)
        return await page.handle(visit)

    def _visit(self, request: web.BaseRequest, found: Found) -> Visit:
        authenticator = self._services.active.authenticator
        query: dict[str, str] = {}
        for name, value in request.query.items():
            query.setdefault(name, value)
        return Visit(
            request=request,
            services=self._services,
            render=partial(self._rendering.page, found.page),
            somebody=visitor_of(request, self._signed_in, authenticator),
            parameters=found.parameters,
            query=query,
        )

    async def _with_form(self, visit: Visit) -> Visit:
        form = await received_form(visit.request, self._services.active.config.limits.request_s)
        if visit.somebody is not None:
            check_token(form, visit.somebody)
        return replace(visit, form=form)

    async def _show(self, request: web.BaseRequest, problem: Problem) -> web.Response:
        """Returns the page of a problem, or its text for the script."""
        if LIVE_HEADER in request.headers:
            return web.Response(status=problem.status, text=f"{problem.title}: {problem.text}")
        visit = self._visit(request, Found(_PROBLEM_PAGE, {}))
        return await visit.page("problem.html", problem.status, problem=problem)

    async def _send(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        await send_answer(request, response, self._services.active.config.server.blocked_write_s)


def _unrouted(request: web.BaseRequest, methods: frozenset[str]) -> Problem:
    if methods:
        text = f"{request.path[:200]} takes {' and '.join(sorted(methods))}."
        return Problem(405, "This page does not take that", text)
    return Problem(404, "There is no such page", f"The console has no {request.path[:200]}.")


def _denied(visit: Visit, page: Page) -> Problem:
    caller = visit.visitor.caller
    needed = " or ".join(sorted(role.value.replace("_", " ") for role in page.roles))
    mine = caller.role.value.replace("_", " ")
    text = f"You are signed in as {caller.key_id} of {caller.tenant}, with the role {mine}. "
    return Problem(403, "Your role may not see this", f"{text}This page needs: {needed}.")


def _to_sign_in(visit: Visit) -> web.Response:
    """Sends a reader to sign in, and back to the page; the script gets a status."""
    request = visit.request
    if LIVE_HEADER in request.headers:
        raise Problem(401, "You are not signed in", "Sign in again.")
    then = quote(request.path_qs, safe="/?=&") if request.method == "GET" else "/"
    return visit.see(SIGN_IN if then == "/" else f"{SIGN_IN}?then={quote(then, safe='/')}")
