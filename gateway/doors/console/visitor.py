"""Who looks at the console: the credential of a request, and whose it is."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from gateway.auth.authenticator import Authenticator, Caller, Unauthenticated


class SignedIn(Protocol):
    """Knows which credential a request carries."""

    def credential(self, request: web.BaseRequest) -> str | None:
        """Returns what the gateway's API takes as a bearer of this request; None: there is none."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person with a key or a session. `credential` is secret and appears on no page."""

    caller: Caller
    credential: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of the RPCs that are made for this person."""
        return (("authorization", f"Bearer {self.credential}"),)

    @property
    def csrf_token(self) -> str:
        """What a form sends back to show that a page of the console made it. Another origin cannot
        know it, as it cannot read the cookie."""
        text = b"moegate console form"
        return hmac.new(self.credential.encode(), text, hashlib.sha256).hexdigest()


def visitor_of(
    request: web.BaseRequest, signed_in: SignedIn, authenticator: Authenticator
) -> Visitor | None:
    """Returns who sent a request; None: nobody that the gateway knows now."""
    credential = signed_in.credential(request)
    if credential is None:
        return None
    try:
        caller = authenticator.authenticate((("authorization", f"Bearer {credential}"),))
    except Unauthenticated:
        return None
    return Visitor(caller, credential)
