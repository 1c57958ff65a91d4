"""Signing in with the provider of `console.oidc`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from aiohttp import web

from gateway.auth.oidc.fetching import ProviderFailed
from gateway.auth.oidc.sign_in import RETURN_PATH, OidcSignIn, SignInFailed
from gateway.auth.sessions import PersonSession, rule_id
from gateway.auth.sign_in_rules import matching_rule, subject_of
from gateway.doors.console.problems import Problem
from gateway.doors.console.routes import Page
from gateway.doors.console.signing_in.cookies import Cookies
from gateway.doors.console.signing_in.failures import FailedSignIns
from gateway.doors.console.signing_in.key_pages import sign_in_page
from gateway.doors.console.signing_in.places import following
from gateway.doors.console.signing_in.providers import Providers
from gateway.doors.console.visits import Visit
from gateway.doors.entry.caller_noise import bound_caller_noise

log = logging.getLogger(__name__)

AWAY = "{} cannot be used now: the gateway's log says why. You can sign in with a key."


def provider_pages(cookies: Cookies, failed: FailedSignIns, providers: Providers) -> Sequence[Page]:
    """Returns the pages that lead to the provider and back."""
    bound_caller_noise(log.name)  # strangers can make these lines

    def provider() -> OidcSignIn:
        found = providers.now
        if found is None:
            raise Problem(404, "There is no such page", "No provider is configured.")
        return found

    async def begin(visit: Visit) -> web.Response:
        then = following(visit.query)
        try:
            url, sealed = await provider().begin(cookies.sessions.flows, then)
        except ProviderFailed as error:
            return await away(visit, error, then)
        # By a link, not a form: the content security policy lets a form lead to this site only.
        response = visit.see(url)
        cookies.begin_flow(response, sealed)
        return response

    async def end(visit: Visit) -> web.Response:
        failed.check(visit.request.remote)
        response = await finished(visit)
        cookies.end_flow(response)
        return response

    async def finished(visit: Visit) -> web.Response:
        seal, kept = cookies.sessions.flows, cookies.flow(visit.request)
        try:
            claims, then = await provider().finish(seal, kept, visit.query)
        except SignInFailed as error:
            failed.add(visit.request.remote)
            log.warning("signing in failed: %s", error)
            return await sign_in_page(visit, "/", error.text, status=401)
        except ProviderFailed as error:
            return await away(visit, error, "/")
        console = visit.services.active.config.console
        assert console.oidc is not None
        subject, rule = subject_of(console.oidc, claims), matching_rule(console.oidc, claims)
        if rule is None:
            log.warning("%s may not sign in: no rule of console.oidc fits", subject)
            fault = f"You are {subject}, and no rule of this gateway lets you in. Ask its operator."
            return await sign_in_page(visit, "/", fault, status=403)
        # The cookie of the session is not sent in a redirect that began at another site.
        response = await visit.page(
            "going_on.html", title="Signed in", url=following({"then": then})
        )
        cookies.begin(response, PersonSession(rule_id(console, rule), subject))
        log.info("%s has signed in to the console", subject)
        return response

    async def away(visit: Visit, error: ProviderFailed, then: str) -> web.Response:
        log.warning("the provider of console.oidc: %s", error)
        oidc = visit.services.active.config.console.oidc
        fault = AWAY.format("The provider" if oidc is None else oidc.name.capitalize())
        return await sign_in_page(visit, then, fault, status=503)

    return (
        Page(path="/sign-in/provider", handle=begin, roles=frozenset()),
        Page(path=RETURN_PATH, handle=end, roles=frozenset()),
    )
