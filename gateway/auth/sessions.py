"""Tokens of console sessions, which are taken wherever an API key is.

A token says who signed in, and what the rights come from: a key by its hash, or a rule of
`console.oidc` by its content. It holds no rights itself. They are looked up at each call, so that a
key or rule that ends or changes ends or changes its sessions.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.auth.sealing import Seal
from gateway.config.server import ConsoleConfig, SignInRuleConfig

PREFIX = "moegate-session-"
"""Beginning of every token. No API key is looked up that begins so."""
MAX_SUBJECT_BYTES = 255
"""Longest name of a person: a token stays within MAX_KEY_CHARACTERS of an API key."""
FLOW_S = 600.0
"""Longest time from the sign-in page to the provider and back."""
_AT_RANDOM = secrets.token_urlsafe(32)
"""Secret of this process where none is configured. It outlives a reload."""


class KeySession(msgspec.Struct, frozen=True, array_like=True, tag="key"):
    """Somebody showed a key. `digest`: its SHA-256."""

    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]


class PersonSession(msgspec.Struct, frozen=True, array_like=True, tag="person"):
    """A provider told who somebody is. `rule`: the `rule_id` that gave the rights."""

    rule: bytes
    subject: Annotated[str, Meta(min_length=1)]


Session = KeySession | PersonSession
_DECODER: msgspec.msgpack.Decoder[Session] = msgspec.msgpack.Decoder(KeySession | PersonSession)


class Sessions:
    """Makes and reads tokens, and seals what a browser keeps while somebody signs in by OIDC."""

    def __init__(
        self, console: ConsoleConfig, secret: str | None, wall: Callable[[], float]
    ) -> None:
        """`secret`: None: one that is random in each process. `wall`: Unix seconds."""
        self._seal = Seal(secret or _AT_RANDOM, "session", console.session_s, wall)
        self.flows = Seal(secret or _AT_RANDOM, "sign-in", FLOW_S, wall)
        self.lifetime_s = console.session_s
        self._rules = {}
        if console.oidc is not None:
            self._rules = {rule_id(console, rule): rule for rule in console.oidc.rules}

    def token(self, session: Session) -> str:
        """Returns a new token, at most MAX_KEY_CHARACTERS long."""
        return PREFIX + self._seal.seal(msgspec.msgpack.encode(session))

    def read(self, token: str) -> Session | None:
        """Returns the session of a token; None: it is none of this gateway, or has ended."""
        content = self._seal.open(token.removeprefix(PREFIX))
        if content is None:
            return None
        try:
            return _DECODER.decode(content)
        except msgspec.MsgspecError:  # of another version
            return None

    def rule(self, session: PersonSession) -> SignInRuleConfig | None:
        """Returns the rule that gives a person rights; None: it is not in force any more."""
        return self._rules.get(session.rule)


def rule_id(console: ConsoleConfig, rule: SignInRuleConfig) -> bytes:
    """Returns a name of a rule by its content and its provider."""
    assert console.oidc is not None
    said = [console.oidc.issuer, console.oidc.client_id, rule]
    return hashlib.sha256(msgspec.json.encode(said)).digest()[:16]
