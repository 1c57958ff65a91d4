"""The part `console` of the configuration: how people sign in, and what they may do then.
`server.console_listen` switches the console on."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import KeyRole, Name, SecretConfig, Url

ClaimName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        description="Name of a claim. Dots lead into objects: realm_access.roles.",
    ),
]
ShortText = Annotated[str, Meta(min_length=1, max_length=256)]
Scope = Annotated[
    str,
    Meta(
        pattern=r"^[!#-\[\]-~]{1,128}$",
        description="Visible ASCII without space, quotation mark and backslash.",
    ),
]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class SignInRuleConfig(_Part, frozen=True, kw_only=True):
    """What people with a claim may do: either `key_id`, or `role` and `tenant`."""

    claim: ClaimName = "groups"
    """Claim that is looked at. `email` counts only if the provider says that it is verified."""
    value: ShortText
    """Value that the claim has, or holds among others."""
    key_id: Name | None = None
    """Key whose rights and limits they have, as long as it exists."""
    role: KeyRole | None = None
    """Role that they have."""
    tenant: Name | None = None
    """Tenant that they belong to."""


class OidcConfig(_Part, frozen=True, kw_only=True):
    """An OpenID Connect provider. The gateway is a client of it with the redirect URI
    `public_url`/sign-in/return."""

    issuer: Url
    """Address of the provider, exactly as its tokens name it. Must be https, but for a loopback
    address."""
    client_id: ShortText
    """Id of the gateway at the provider."""
    client_secret: SecretConfig | None = None
    """Secret of the gateway at the provider; absent: it is a public client, with PKCE alone."""
    name: Annotated[str, Meta(min_length=1, max_length=64)] = "single sign-on"
    """How the sign-in page calls the provider."""
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=16)] = (
        "openid",
        "email",
        "profile",
    )
    """What the gateway asks to know, `openid` among it."""
    subject_claim: ClaimName = "email"
    """Claim that names a person in pages and in the audit log. `email` counts only if it is
    verified; else, and where the claim is absent, it is `sub`."""
    rules: Annotated[tuple[SignInRuleConfig, ...], Meta(max_length=1000)]
    """The first rule that fits a person holds. Whom none fits may not sign in."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """Longest time of one request to the provider."""


class ConsoleConfig(_Part, frozen=True, kw_only=True):
    """Signing in to the console."""

    session_secret: SecretConfig | None = None
    """Secret that sessions are encrypted with, at least 32 characters; the same for all gateways
    that share users. Absent: made at random at each start, so that a restart ends all sessions."""
    session_s: Annotated[float, Meta(ge=60, le=604_800)] = 28_800.0
    """How long a session lasts, seconds. The end of its key ends it before."""
    public_url: Url | None = None
    """Address of the console in browsers, where a proxy stands before it; needed for `oidc`. With
    https, cookies go over TLS only."""
    oidc: OidcConfig | None = None
    """Provider by which people can sign in; absent: they sign in with an API key."""
