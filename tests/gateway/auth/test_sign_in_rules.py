"""Rules of `console.oidc`: whom they let in, and how people are called."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.auth.sign_in_rules import matching_rule, subject_of
from gateway.config.server import OidcConfig, SignInRuleConfig
from gateway.config.values import KeyRole


def rule(claim: str, value: str) -> SignInRuleConfig:
    return SignInRuleConfig(claim=claim, value=value, role=KeyRole.OPERATOR, tenant="ops")


RULES = (
    rule("groups", "platform"),
    rule("email", "ann@example.com"),
    rule("realm_access.roles", "admin"),
    rule("https://example.com/team", "core"),
)
OIDC = OidcConfig(issuer="https://idp.example", client_id="moegate", rules=RULES)


@pytest.mark.parametrize(
    ("claims", "number"),
    [
        ({"groups": ["staff", "platform"]}, 0),
        ({"groups": "platform"}, 0),
        ({"groups": ["platform"], "email": "ann@example.com", "email_verified": True}, 0),
        ({"email": "ann@example.com", "email_verified": True}, 1),
        ({"realm_access": {"roles": ["admin"]}}, 2),
        ({"https://example.com/team": "core"}, 3),
    ],
)
def test_the_first_rule_that_fits_holds(claims: dict[str, Any], number: int) -> None:
    assert matching_rule(OIDC, claims) is RULES[number]


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"groups": None},
        {"groups": ["platforms", "Platform", ["platform"], {"platform": 1}]},
        {"groups": {"platform": True}},
        {"groups": "staff platform"},
        {"email": "ann@example.com"},
        {"email": "ann@example.com", "email_verified": False},
        {"email": "ann@example.com", "email_verified": "true"},
        {"realm_access": ["admin"]},
        {"realm_access.roles": "user", "realm_access": {"roles": ["admin"]}},
    ],
)
def test_nothing_else_lets_anybody_in(claims: dict[str, Any]) -> None:
    assert matching_rule(OIDC, claims) is None


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"email": "ann@example.com", "email_verified": True}, "ann@example.com"),
        ({"email": "ann@example.com", "email_verified": False}, "4711"),
        ({"email": "ann@example.com"}, "4711"),
        ({"email": "a" * 300, "email_verified": True}, "4711"),
        ({"email": "ann\nforged line", "email_verified": True}, "4711"),
        ({}, "4711"),
    ],
)
def test_a_person_has_a_name_that_the_provider_vouches_for(
    claims: dict[str, Any], name: str
) -> None:
    assert subject_of(OIDC, {"sub": "4711"} | claims) == name


def test_another_claim_can_name_people() -> None:
    oidc = msgspec.structs.replace(OIDC, subject_claim="preferred_username")
    assert subject_of(oidc, {"sub": "4711", "preferred_username": "ann"}) == "ann"
