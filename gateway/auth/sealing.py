"""Seals what a browser keeps for the gateway: encrypted, so that it tells nothing, and signed, so
that nobody can change or make it. (Fernet: AES-128-CBC and HMAC-SHA256, with the time of sealing.)
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Seal:
    """Seals and opens. What was sealed for one purpose does not open for another one, nor after
    `lifetime_s`."""

    def __init__(
        self, secret: str, purpose: str, lifetime_s: float, wall: Callable[[], float]
    ) -> None:
        """`wall`: Unix seconds. Its clock may be a minute behind that of another gateway."""
        derive = HKDF(SHA256(), length=32, salt=None, info=f"moegate {purpose}".encode())
        self._fernet = Fernet(base64.urlsafe_b64encode(derive.derive(secret.encode())))
        self._lifetime_s = int(lifetime_s)
        self._wall = wall

    def seal(self, content: bytes) -> str:
        """Returns the sealed content: letters, digits, - _ and =, a third longer than it."""
        return self._fernet.encrypt_at_time(content, int(self._wall())).decode()

    def open(self, sealed: str) -> bytes | None:
        """Returns the content; None: it is not sealed by this, or too old."""
        try:
            token = sealed.encode()
            if base64.urlsafe_b64encode(base64.urlsafe_b64decode(token)) != token:
                return None  # other letters of the same bytes, which Fernet would take
            return self._fernet.decrypt_at_time(token, self._lifetime_s, int(self._wall()))
        except (InvalidToken, ValueError):
            return None
