"""Names the session of a request to a remote, without telling who it is.

A remote that knows which requests belong together sends them where their prompt is cached. It
receives a keyed hash of tenant and session: the same from every gateway with the same secret, and
different for two tenants with the same session id.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.domain.generation import Session

HINT_CHARACTERS = 32
"""Hex digits of a hint: 128 bits, and within the limits of all known APIs (64 and more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHint:
    """Where a remote reads the hint: in a header, or in a field of the body, which may be one
    level deep (metadata.user_id)."""

    secret: str = field(repr=False)
    header: str | None = None
    body_field: str | None = None

    def value(self, session: Session) -> str:
        """The hint for a session."""
        text = f"{session.tenant}\0{session.session_id}".encode()
        return hmac.new(self.secret.encode(), text, hashlib.sha256).hexdigest()[:HINT_CHARACTERS]

    def headers(self, session: Session | None) -> Mapping[str, str]:
        """Headers to add to a request; None: it has no session."""
        if session is None or self.header is None:
            return {}
        return {self.header: self.value(session)}

    def fields(self, session: Session | None) -> Mapping[str, Any]:
        """Fields to add to the body of a request; None: it has no session."""
        if session is None or self.body_field is None:
            return {}
        name, _, inner = self.body_field.partition(".")
        value = self.value(session)
        return {name: {inner: value} if inner else value}
