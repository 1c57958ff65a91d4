"""ID tokens: what is taken, and what each known attack on them meets."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwk, jws, jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.auth.oidc.id_token import (
    MAX_KEYS,
    MAX_TOKEN_CHARACTERS,
    InvalidToken,
    Key,
    UnknownKey,
    public_keys,
    verified_claims,
)

NOW_S = 1_800_000_000
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})
KEYS = public_keys({"keys": [key.as_dict(private=False) for key in (RSA, EC, ED)]})
GOOD: dict[str, Any] = {
    "iss": "https://idp.example",
    "sub": "4711",
    "aud": "moegate",
    "exp": NOW_S + 300,
    "iat": NOW_S,
    "nonce": "of this sign-in",
}


def token(key: Any = RSA, alg: str = "RS256", header: Any = None, **claims: Any) -> str:
    said = {name: value for name, value in (GOOD | claims).items() if value is not ...}
    head = {"alg": alg, "kid": key.kid} | (header or {})
    return jwt.encode(head, said, key, algorithms=[alg])


def verified(token: str, keys: list[Key] = KEYS) -> dict[str, Any]:
    return verified_claims(
        token,
        keys,
        issuer="https://idp.example",
        client_id="moegate",
        nonce="of this sign-in",
        now_unix_s=NOW_S,
    )


@pytest.mark.parametrize(
    ("key", "alg"),
    [(RSA, "RS256"), (RSA, "PS512"), (EC, "ES256"), (ED, "Ed25519")],
)
def test_tokens_of_the_provider_are_taken(key: Key, alg: str) -> None:
    assert verified(token(key, alg)) == GOOD


def test_what_providers_differ_in_is_taken() -> None:
    assert verified(token(aud=["moegate"]))["sub"] == "4711"
    assert verified(token(aud=["moegate", "other"], azp="moegate"))["sub"] == "4711"
    assert verified(token(exp=NOW_S - 30))["sub"] == "4711"  # clocks differ
    unnamed = jwt.encode({"alg": "ES256"}, GOOD, EC, algorithms=["ES256"])
    assert verified(unnamed)["sub"] == "4711"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://idp.example/"}, "iss"),
        ({"iss": "https://evil.example"}, "iss"),
        ({"iss": ...}, "iss"),
        ({"aud": "another"}, "aud"),
        ({"aud": ["another"]}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": ...}, "aud"),
        ({"aud": ["moegate", "another"]}, "azp"),
        ({"azp": "another"}, "azp"),
        ({"exp": NOW_S - 61}, "expired"),
        ({"exp": ...}, "exp"),
        ({"exp": "never"}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"iat": NOW_S + 120}, "future"),
        ({"iat": ...}, "iat"),
        ({"nbf": NOW_S + 120}, "not yet"),
        ({"nonce": "of another one"}, "nonce"),
        ({"nonce": ...}, "nonce"),
        ({"nonce": ["of this sign-in"]}, "nonce"),
        ({"sub": ...}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 4711}, "sub"),
        ({"sub": "a\nb"}, "sub"),
        ({"sub": "a" * 256}, "sub"),
    ],
)
def test_a_token_for_others_or_another_time_is_refused(claims: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidToken, match=reason):
        verified(token(**claims))


def unsigned(alg: str) -> str:
    parts = ({"alg": alg, "typ": "JWT"}, GOOD)
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
    )
    return f"{head}.{body}."


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "RS256"])
def test_a_token_without_a_signature_is_refused(alg: str) -> None:
    with pytest.raises(InvalidToken):
        verified(unsigned(alg))


def test_the_public_key_is_no_shared_secret() -> None:
    for public in (RSA.as_pem(private=False), json.dumps(RSA.as_dict(private=False)).encode()):
        shared = OctKey.import_key(base64.b64encode(public))
        for header in ({"kid": "rsa"}, {"kid": "ec"}):
            forged = jwt.encode({"alg": "HS256"} | header, GOOD, shared, algorithms=["HS256"])
            with pytest.raises(InvalidToken, match="not taken"):
                verified(forged)


def test_a_key_that_the_token_brings_is_not_used() -> None:
    brought = {"jwk": STRANGER.as_dict(private=False)}
    with pytest.raises(InvalidToken, match="signature"):
        verified(token(STRANGER, header=brought))
    with pytest.raises(InvalidToken):
        verified(token(STRANGER, header={"jku": "https://evil.example/jwks"}))


def test_an_algorithm_of_another_type_of_key_is_refused() -> None:
    with pytest.raises(UnknownKey):
        verified(token(EC, "ES256", header={"kid": "rsa"}))


def test_a_changed_token_is_refused() -> None:
    head, body, signature = token().split(".")
    other = token(sub="admin").split(".")[1]
    for changed in (f"{head}.{other}.{signature}", f"{head}.{body}.{signature[:-4]}AAAA"):
        with pytest.raises(InvalidToken, match="signature"):
            verified(changed)


def test_a_key_that_nobody_knows_yet_is_told_apart() -> None:
    with pytest.raises(UnknownKey):
        verified(token(header={"kid": "newer"}))
    with pytest.raises(UnknownKey):
        verified(token(), [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a.b.c",
        "..",
        "é.é.é",
        "e30.e30.e30",
        "W10.e30.",
        base64.b64encode(b"[" * 3000).decode() + ".e30.e30",
        "x" * (MAX_TOKEN_CHARACTERS + 1),
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken):
        verified(text)


def test_deep_claims_are_refused() -> None:
    body = base64.urlsafe_b64encode(b'{"a":' + b"[" * 30_000).decode().rstrip("=")
    raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    deep = jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, raw, RSA, algorithms=["RS256"])
    with pytest.raises(InvalidToken):
        verified(deep)


def test_keys_that_cannot_be_used_are_left_out() -> None:
    good = RSA.as_dict(private=False)
    modulus = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
    small = good | {"n": base64.urlsafe_b64encode(modulus.to_bytes(128)).decode().rstrip("=")}
    secret = jwk.import_key("a secret of theirs", "oct").as_dict(private=True)
    bad: list[Any] = [
        *(small, secret, good | {"use": "enc"}, good | {"n": "!"}, good | {"kty": "XYZ"}),
        *({"kty": "EC", "crv": "P-0", "x": "AA", "y": "AA"}, {}, None, "key", []),
    ]
    assert len(public_keys({"keys": [*bad, good]})) == 1
    assert public_keys({"keys": "none"}) == []
    assert public_keys({}) == []
    assert len(public_keys({"keys": [good] * (MAX_KEYS + 10)})) == MAX_KEYS
