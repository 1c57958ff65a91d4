"""Which rule of `console.oidc` fits a person, and how the person is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.auth.sessions import MAX_SUBJECT_BYTES
from gateway.config.server import OidcConfig, SignInRuleConfig

EMAIL = "email"
Claims = Mapping[str, Any]


def matching_rule(oidc: OidcConfig, claims: Claims) -> SignInRuleConfig | None:
    """Returns the first rule that fits; None: none does."""
    return next((rule for rule in oidc.rules if rule.value in _texts(claims, rule.claim)), None)


def subject_of(oidc: OidcConfig, claims: Claims) -> str:
    """Returns the name of a person for pages and the audit log."""
    named = [text for text in _texts(claims, oidc.subject_claim) if is_name(text)]
    return named[0] if named else str(claims["sub"])


def _texts(claims: Claims, name: str) -> list[str]:
    """Texts that a claim is, or holds. An e-mail address that is not verified may be anybody's."""
    if name == EMAIL and claims.get("email_verified") is not True:
        return []
    found = _found(claims, name)
    values = found if isinstance(found, list) else [found]
    return [each for each in values if isinstance(each, str)]


def _found(claims: Claims, name: str) -> object:
    if name in claims:  # such as https://example.com/groups
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def is_name(text: str) -> bool:
    """Whether a text can name a person."""
    return text.isprintable() and 0 < len(text.encode(errors="replace")) <= MAX_SUBJECT_BYTES
