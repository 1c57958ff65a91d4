"""Cookies of the console: the session, and what a browser keeps on its way to the provider.

The session is `SameSite=Strict`: no request that another site caused carries it. The way back from
the provider is such a request, so that its cookie is `Lax`, and the page that it ends at leads on
by itself. Over TLS the names begin with __Host-, so that no neighbouring host can set them.
"""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from gateway.auth.sessions import FLOW_S, PREFIX, Session, Sessions
from gateway.doors.console.problems import Problem
from gateway.doors.entry.active_settings import ActiveSettings

SESSION, FLOW = "moegate_session", "moegate_sign_in"


class Cookies:
    """Reads and sets the cookies. `speaks_tls`: the console's port does. With an https
    `console.public_url`, a proxy does it for the console."""

    def __init__(self, active: ActiveSettings, *, speaks_tls: bool) -> None:
        self._active = active
        self._speaks_tls = speaks_tls

    @property
    def sessions(self) -> Sessions:
        """The sessions in force. Raises Problem."""
        found = self._active.authenticator.sessions
        if found is None:  # a reload has switched the console off; its port closes at a restart
            raise Problem(404, "There is no console", "It was switched off.")
        return found

    def credential(self, request: web.BaseRequest) -> str | None:
        """Returns the token of a request's session; None: there is none."""
        token = request.cookies.get(self._name(SESSION), "")
        return token if token.startswith(PREFIX) else None

    def begin(self, response: web.Response, session: Session) -> None:
        """Begins a session."""
        token = self.sessions.token(session)
        self._set(response, SESSION, token, self.sessions.lifetime_s, "Strict")

    def end(self, response: web.Response) -> None:
        """Takes the session from the browser."""
        self._delete(response, SESSION, "Strict")

    def flow(self, request: web.BaseRequest) -> str:
        """Returns what the browser kept on its way to the provider; empty: nothing."""
        return request.cookies.get(self._name(FLOW), "")

    def begin_flow(self, response: web.Response, sealed: str) -> None:
        """Gives the browser what it keeps on its way to the provider."""
        self._set(response, FLOW, sealed, FLOW_S, "Lax")

    def end_flow(self, response: web.Response) -> None:
        """Takes that from the browser: it serves once."""
        self._delete(response, FLOW, "Lax")

    def _set(
        self,
        response: web.Response,
        name: str,
        value: str,
        age_s: float,
        same_site: Literal["Strict", "Lax"],
    ) -> None:
        response.set_cookie(
            self._name(name),
            value,
            path="/",
            max_age=int(age_s),
            httponly=True,
            secure=self._is_secure,
            samesite=same_site,
        )

    def _delete(
        self, response: web.Response, name: str, same_site: Literal["Strict", "Lax"]
    ) -> None:
        response.del_cookie(
            self._name(name),
            path="/",
            httponly=True,
            secure=self._is_secure,
            samesite=same_site,
        )

    def _name(self, name: str) -> str:
        return f"__Host-{name}" if self._is_secure else name

    @property
    def _is_secure(self) -> bool:
        public = self._active.config.console.public_url
        return self._speaks_tls or (public is not None and public.startswith("https://"))
