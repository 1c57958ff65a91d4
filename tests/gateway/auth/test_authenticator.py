"""Authentication: who a key is, what it may do, and what is refused without telling a key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.auth.authenticator import Authenticator, Caller, Unauthenticated
from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole, TenantConfig
from gateway.config.limits import KeyLimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from scheduler.contract import SloClass
from scheduler.limits.rate_limit import RateLimits

KEY = "mg-demo-key-do-not-use"
OPEN = "mg-another-key"
CONFIG = GatewayConfig(
    tenants=(
        TenantConfig(
            name="search",
            keys=(
                KeyConfig(
                    id="one",
                    sha256=key_sha256(KEY),
                    role=KeyRole.TENANT_ADMIN,
                    models=("qwen",),
                    slo_classes=(SloClass.STANDARD, SloClass.BATCH),
                    remote_classes=(),
                    limits=KeyLimitsConfig(requests_per_minute=3, concurrent_requests=2),
                ),
            ),
        ),
        TenantConfig(name="ads", keys=(KeyConfig(id="two", sha256=key_sha256(OPEN)),)),
    )
)
Metadata = list[tuple[str, str | bytes]]


def caller(*metadata: tuple[str, str | bytes]) -> Caller:
    return Authenticator(CONFIG, Path()).authenticate(metadata)


def test_the_key_decides_who_calls_and_what_it_may() -> None:
    assert caller(("x-trace", "1"), ("authorization", f"Bearer {KEY}")) == Caller(
        tenant="search",
        key_id="one",
        weight=1.0,
        role=KeyRole.TENANT_ADMIN,
        models=frozenset({"qwen"}),
        slo_classes=(SloClass.STANDARD, SloClass.BATCH),
        remote_classes=frozenset(),
        limits=RateLimits(requests_per_minute=3, concurrent_requests=2),
        message_bytes=4 << 20,
        body_bytes=32 << 20,
    )


def test_who_acts_is_the_person_or_else_the_key() -> None:
    by_key = caller(("x-api-key", OPEN))
    assert by_key.actor == "two"
    assert replace(by_key, subject="ann@example.com").actor == "ann@example.com"


@pytest.mark.parametrize(
    "metadata",
    [
        ("authorization", f"Bearer {OPEN}"),
        ("authorization", f"bearer {OPEN}"),
        ("authorization", f"BEARER  {OPEN} "),
        ("x-api-key", OPEN),
    ],
)
def test_every_way_to_send_a_key(metadata: tuple[str, str]) -> None:
    assert caller(metadata).key_id == "two"


def test_restrictions_and_their_absence() -> None:
    one, two = caller(("x-api-key", KEY)), caller(("x-api-key", OPEN))
    assert one.allows_model("qwen")
    assert not one.allows_model("deepseek")
    assert two.allows_model("deepseek")
    assert one.allows_slo_class(SloClass.BATCH)
    assert not one.allows_slo_class(SloClass.INTERACTIVE)
    assert two.allows_slo_class(SloClass.INTERACTIVE)
    assert not one.allows_remote_class("eu")
    assert two.allows_remote_class("eu")
    assert two.limits == RateLimits()


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "no API key"),
        ([("user-agent", KEY)], "no API key"),
        ([("authorization", f"Bearer {KEY}x")], "not known"),
        ([("authorization", f"Bearer {KEY[:-1]}")], "not known"),
        ([("x-api-key", key_sha256(KEY))], "not known"),
        ([("x-api-key", f"Bearer {KEY}")], "not known"),
        ([("authorization", KEY)], "not of the form"),
        ([("authorization", f"Basic {KEY}")], "not of the form"),
        ([("authorization", "Bearer ")], "no valid API key"),
        ([("authorization", "Bearer")], "no valid API key"),
        ([("x-api-key", "")], "no valid API key"),
        ([("x-api-key", f"{KEY}\n")], "no valid API key"),
        ([("x-api-key", f"{KEY}\u00e9")], "no valid API key"),
        ([("x-api-key", f"{KEY}\ud800")], "no valid API key"),
        ([("x-api-key", KEY.encode())], "not text"),
        ([("x-api-key", KEY), ("x-api-key", KEY)], "more than one"),
        ([("authorization", f"Bearer {KEY}"), ("x-api-key", KEY)], "more than one"),
        ([("x-api-key", KEY + "x" * 500)], "longer than 512"),
    ],
)
def test_what_is_refused_and_why(metadata: Metadata, reason: str) -> None:
    with pytest.raises(Unauthenticated, match=reason) as caught:
        Authenticator(CONFIG, Path()).authenticate(metadata)
    assert KEY[:10] not in str(caught.value)


def test_without_keys_nobody_may_call() -> None:
    with pytest.raises(Unauthenticated):
        Authenticator(GatewayConfig(), Path()).authenticate([("x-api-key", KEY)])


def test_hashes_that_begin_alike_are_told_apart() -> None:
    digest = key_sha256(KEY)
    alike = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    keys = (KeyConfig(id="alike", sha256=alike), KeyConfig(id="one", sha256=digest))
    config = GatewayConfig(tenants=(TenantConfig(name="search", keys=keys),))
    assert Authenticator(config, Path()).authenticate([("x-api-key", KEY)]).key_id == "one"
