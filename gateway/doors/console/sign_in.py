"""Signing in with an API key."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web

from gateway.auth.authenticator import MAX_KEY_CHARACTERS, Unauthenticated
from gateway.doors.console.routes import Page
from gateway.doors.console.visits import Visit

COOKIE = "moegate_console"
SESSION_S = 8 * 3600.0
MOST_SESSIONS = 1000


class KeysOfSessions:
    """Keys of those who are signed in, by the random name in their cookie, in memory."""

    def __init__(self, clock: Callable[[], float], *, is_https: bool) -> None:
        self._clock = clock
        self._is_https = is_https
        self._keys: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def credential(self, request: web.BaseRequest) -> str | None:
        """Returns the key of a request's session."""
        found = self._keys.get(request.cookies.get(COOKIE, ""))
        return found[1] if found is not None and self._clock() < found[0] else None

    def begin(self, response: web.Response, key: str) -> None:
        """Begins a session."""
        name = secrets.token_urlsafe(32)
        self._keys[name] = (self._clock() + SESSION_S, key)
        while len(self._keys) > MOST_SESSIONS:
            self._keys.popitem(last=False)
        response.set_cookie(
            COOKIE, name, path="/", httponly=True, secure=self._is_https, samesite="Strict"
        )

    def end(self, request: web.BaseRequest, response: web.Response) -> None:
        """Ends the session of a request."""
        self._keys.pop(request.cookies.get(COOKIE, ""), None)
        response.del_cookie(COOKIE, path="/")


def sign_in_pages(sessions: KeysOfSessions) -> Sequence[Page]:
    """Returns the pages to sign in and out."""

    async def form(visit: Visit) -> web.Response:
        if visit.somebody is not None:
            return visit.see(_then(visit.query))
        return await visit.page("sign_in.html", then=_then(visit.query), fault="")

    async def begin(visit: Visit) -> web.Response:
        key = visit.form.get("key", "").strip()[: MAX_KEY_CHARACTERS + 1]
        try:
            visit.services.active.authenticator.authenticate((("authorization", f"Bearer {key}"),))
        except Unauthenticated:
            fault = "This key is not known. Look whether it is whole, and has not been revoked."
            return await visit.page("sign_in.html", 401, then=_then(visit.form), fault=fault)
        response = visit.see(_then(visit.form))
        sessions.begin(response, key)
        return response

    async def end(visit: Visit) -> web.Response:
        response = visit.see("/sign-in")
        sessions.end(visit.request, response)
        return response

    return (
        Page(path="/sign-in", handle=form, roles=frozenset()),
        Page(path="/sign-in", handle=begin, method="POST", roles=frozenset()),
        Page(path="/sign-out", handle=end, method="POST"),
    )


def _then(fields: Mapping[str, str]) -> str:
    """Returns the page that follows: only one of the console."""
    then = fields.get("then", "/")
    return then if then.startswith("/") and not then.startswith(("//", "/\\")) else "/"
