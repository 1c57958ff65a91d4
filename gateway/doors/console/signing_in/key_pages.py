"""Signing in with an API key, and signing out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from aiohttp import web

from gateway.auth.authenticator import MAX_KEY_CHARACTERS, Unauthenticated, key_digest
from gateway.auth.sessions import PREFIX, KeySession
from gateway.doors.console.routes import Page
from gateway.doors.console.signing_in.cookies import Cookies
from gateway.doors.console.signing_in.failures import FailedSignIns
from gateway.doors.console.signing_in.places import following
from gateway.doors.console.signing_in.providers import Providers
from gateway.doors.console.visits import Visit

log = logging.getLogger(__name__)


def key_pages(cookies: Cookies, failed: FailedSignIns, providers: Providers) -> Sequence[Page]:
    """Returns the pages to sign in with a key, and to sign out."""

    async def form(visit: Visit) -> web.Response:
        if visit.somebody is not None:
            return visit.see(following(visit.query))
        return await sign_in_page(visit, following(visit.query))

    async def begin(visit: Visit) -> web.Response:
        failed.check(visit.request.remote)
        key = visit.form.get("key", "").strip()[: MAX_KEY_CHARACTERS + 1]
        then = following(visit.form)
        try:
            if key.startswith(PREFIX):
                raise Unauthenticated("a token of a session begins no other one")
            caller = visit.services.active.authenticator.authenticate(
                (("authorization", f"Bearer {key}"),)
            )
        except Unauthenticated:
            failed.add(visit.request.remote)
            fault = "This key is not known. Look whether it is whole, and has not been revoked."
            return await sign_in_page(visit, then, fault, status=401)
        response = visit.see(then)
        cookies.begin(response, KeySession(key_digest(key)))
        log.info("%s has signed in to the console with its key", caller.key_id)
        return response

    async def end(visit: Visit) -> web.Response:
        url = None
        if visit.visitor.caller.subject is not None:
            url = await providers.end_url()
        if url is None:
            response = visit.see("/sign-in")
        else:
            # Not a redirect: the content security policy lets a form lead to this site only.
            response = await visit.page("going_on.html", title="Signed out", url=url)
        cookies.end(response)
        return response

    return (
        Page(path="/sign-in", handle=form, roles=frozenset()),
        Page(path="/sign-in", handle=begin, method="POST", roles=frozenset()),
        Page(path="/sign-out", handle=end, method="POST"),
    )


async def sign_in_page(
    visit: Visit, then: str, fault: str = "", *, status: int = 200
) -> web.Response:
    """Returns the page to sign in at. `then`: page that follows. `fault`: what went wrong."""
    oidc = visit.services.active.config.console.oidc
    provider = None if oidc is None else oidc.name
    return await visit.page("sign_in.html", status, then=then, fault=fault, provider=provider)
