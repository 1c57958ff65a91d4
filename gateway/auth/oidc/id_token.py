"""Validates ID tokens (OpenID Connect Core 1.0, section 3.1.3.7). Pure: keys and time come in."""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from joserfc import jwk, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway.auth.sign_in_rules import is_name

Key = RSAKey | ECKey | OKPKey
ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("Ed25519",),
}
"""Taken signatures by type of key: each needs a private key. `none` and HMAC are none of them, so
that a public key of the provider is never taken for a shared secret."""
LEEWAY_S = 60
"""How far the provider's clock may be off."""
MAX_TOKEN_CHARACTERS = 64 << 10
MAX_KEYS = 64
MAX_TRIED = 8
"""Most keys that one token is checked with: a token should name its key."""
RSA_CHARACTERS = range(342, 1367)
"""Base64 characters of the modulus of an RSA key: 2048 to 8192 bits."""


class InvalidToken(Exception):
    """The provider's ID token cannot be trusted. The text says why, for a log."""


class UnknownKey(InvalidToken):
    """No key of the provider has the name that the token gives: the provider may have new ones."""


def public_keys(document: Mapping[str, Any]) -> list[Key]:
    """Returns the usable keys of a JWKS; others are left out."""
    listed = document.get("keys")
    found = (_key(each) for each in (listed if isinstance(listed, list) else [])[:MAX_KEYS])
    return [key for key in found if key is not None]


def _key(said: object) -> Key | None:
    if not isinstance(said, dict) or said.get("use", "sig") != "sig":
        return None
    if said.get("kty") not in ALGORITHMS:
        return None
    if said.get("kty") == "RSA" and len(str(said.get("n"))) not in RSA_CHARACTERS:
        return None
    try:
        key = jwk.import_key(said)
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return key if isinstance(key, RSAKey | ECKey | OKPKey) else None


def verified_claims(
    token: str, keys: Sequence[Key], *, issuer: str, client_id: str, nonce: str, now_unix_s: float
) -> dict[str, Any]:
    """Returns the claims of an ID token that was made by the issuer, for this client, for the
    sign-in with this nonce. Raises InvalidToken."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidToken(f"it has {len(token)} characters: at most {MAX_TOKEN_CHARACTERS}")
    claims = _verified(token, _candidates(token, keys))
    registry = jwt.JWTClaimsRegistry(
        now=int(now_unix_s),
        leeway=LEEWAY_S,
        iss={"essential": True, "value": issuer},
        sub={"essential": True},
        aud={"essential": True, "value": client_id},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True},
    )
    try:
        registry.validate(claims)
    except JoseError as error:
        raise InvalidToken(str(error)) from None
    told = claims["nonce"]
    if not isinstance(told, str) or not hmac.compare_digest(told.encode(), nonce.encode()):
        raise InvalidToken("its nonce is that of another sign-in")
    others = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if (others or "azp" in claims) and claims.get("azp") != client_id:
        raise InvalidToken("it was issued to another client (azp)")
    if not is_name(claims["sub"]):
        raise InvalidToken("its sub is no name of at most 255 bytes")
    return claims


def _candidates(token: str, keys: Sequence[Key]) -> list[tuple[Key, str]]:
    """The keys that may have signed the token, each with the algorithm that it names."""
    header = _header(token)
    algorithm, kid = header.get("alg"), header.get("kid")
    fitting = [
        key
        for key in keys
        if algorithm in ALGORITHMS[key.key_type] and key.alg in (None, algorithm)
    ]
    if not any(algorithm in names for names in ALGORITHMS.values()):
        raise InvalidToken(f"it is signed by {str(algorithm)[:20]!r}, which is not taken")
    named = [key for key in fitting if kid is None or key.kid == kid]
    if not named:
        raise UnknownKey("no key of the provider has its kid and alg")
    return [(key, str(algorithm)) for key in named[:MAX_TRIED]]


def _header(token: str) -> dict[str, Any]:
    first = token.partition(".")[0]
    try:
        padded = first.encode("ascii") + b"=" * (-len(first) % 4)
        header = msgspec.json.decode(binascii.a2b_base64(padded.translate(_URL_SAFE)))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InvalidToken("it is no JWT")
    return header


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def _verified(token: str, candidates: Iterable[tuple[Key, str]]) -> dict[str, Any]:
    for claims in _attempts(token, candidates):
        return claims
    raise InvalidToken("its signature is not the provider's")


def _attempts(token: str, candidates: Iterable[tuple[Key, str]]) -> Iterator[dict[str, Any]]:
    for key, algorithm in candidates:
        try:
            yield jwt.decode(token, key, algorithms=[algorithm]).claims
        except (JoseError, ValueError, TypeError, RecursionError):
            continue
