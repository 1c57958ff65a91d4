"""Sessions of the console: what a token is good for, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.authenticator import (
    MAX_KEY_CHARACTERS,
    Authenticator,
    Caller,
    Unauthenticated,
    key_digest,
)
from gateway.auth.sessions import (
    MAX_SUBJECT_BYTES,
    PREFIX,
    KeySession,
    PersonSession,
    Session,
    rule_id,
)
from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole, TenantConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.server import ConsoleConfig, OidcConfig, ServerConfig, SignInRuleConfig
from gateway.config.values import SecretConfig

KEY = "mg-demo-key-do-not-use"
OPERATORS = SignInRuleConfig(value="platform", role=KeyRole.OPERATOR, tenant="search")
LIKE_ONE = SignInRuleConfig(value="team", key_id="one")
CONSOLE = ConsoleConfig(
    public_url="https://console.example",
    oidc=OidcConfig(issuer="https://idp.example", client_id="moegate", rules=(OPERATORS, LIKE_ONE)),
)
CONFIG = GatewayConfig(
    server=ServerConfig(console_listen="127.0.0.1:0"),
    tenants=(
        TenantConfig(
            name="search",
            keys=(KeyConfig(id="one", sha256=key_sha256(KEY), role=KeyRole.TENANT_ADMIN),),
        ),
    ),
    console=CONSOLE,
)
BY_KEY = KeySession(key_digest(KEY))
ANN = PersonSession(rule_id(CONSOLE, OPERATORS), "ann@example.com")


@dataclass
class Wall:
    """A clock that tests move."""

    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def authenticator(config: GatewayConfig = CONFIG, wall: Wall | None = None) -> Authenticator:
    return Authenticator(config, Path(), wall or Wall())


def token(session: Session, config: GatewayConfig = CONFIG) -> str:
    sessions = authenticator(config).sessions
    assert sessions is not None
    return sessions.token(session)


def caller(config: GatewayConfig, token: str, wall: Wall | None = None) -> Caller:
    return authenticator(config, wall).authenticate([("authorization", f"Bearer {token}")])


def without_keys() -> GatewayConfig:
    return msgspec.structs.replace(CONFIG, tenants=(TenantConfig(name="search"),))


def with_console(console: ConsoleConfig) -> GatewayConfig:
    return msgspec.structs.replace(CONFIG, console=console)


def test_a_session_of_a_key_has_its_rights_and_ends_with_it() -> None:
    made = token(BY_KEY)
    one = caller(CONFIG, made)
    assert (one.key_id, one.role, one.subject, one.actor) == (
        "one",
        KeyRole.TENANT_ADMIN,
        None,
        "one",
    )
    with pytest.raises(Unauthenticated, match="not known"):
        caller(without_keys(), made)
    rotated = KeyConfig(id="one", sha256=key_sha256("mg-another"), role=KeyRole.TENANT_ADMIN)
    renewed = msgspec.structs.replace(
        CONFIG, tenants=(TenantConfig(name="search", keys=(rotated,)),)
    )
    with pytest.raises(Unauthenticated, match="not known"):
        caller(renewed, made)


def test_a_person_has_the_rights_of_the_rule_as_long_as_it_stands() -> None:
    made = token(ANN)
    ann = caller(CONFIG, made)
    assert (ann.role, ann.tenant, ann.actor) == (KeyRole.OPERATOR, "search", "ann@example.com")
    assert ann.key_id == "oidc:ann@example.com"
    assert caller(without_keys(), made).role is KeyRole.OPERATOR
    assert CONSOLE.oidc is not None
    for oidc in (
        None,
        msgspec.structs.replace(CONSOLE.oidc, rules=(LIKE_ONE,)),
        msgspec.structs.replace(CONSOLE.oidc, issuer="https://other.example"),
        msgspec.structs.replace(
            CONSOLE.oidc, rules=(msgspec.structs.replace(OPERATORS, role=KeyRole.CALLER),)
        ),
    ):
        with pytest.raises(Unauthenticated, match="not in force"):
            caller(with_console(msgspec.structs.replace(CONSOLE, oidc=oidc)), made)
    with pytest.raises(Unauthenticated, match="not in force"):
        caller(msgspec.structs.replace(CONFIG, tenants=()), made)


def test_a_person_with_the_rights_of_a_key_has_its_limits_but_another_name() -> None:
    made = token(PersonSession(rule_id(CONSOLE, LIKE_ONE), "bob"))
    bob = caller(CONFIG, made)
    assert (bob.key_id, bob.role, bob.actor) == ("one", KeyRole.TENANT_ADMIN, "bob")
    with pytest.raises(Unauthenticated, match="not in force"):
        caller(without_keys(), made)


def test_a_session_ends_with_time() -> None:
    made, wall = token(ANN), Wall()
    wall.now_s += CONSOLE.session_s - 1
    assert caller(CONFIG, made, wall).actor == "ann@example.com"
    wall.now_s += 2
    with pytest.raises(Unauthenticated, match="has ended"):
        caller(CONFIG, made, wall)
    shorter = with_console(msgspec.structs.replace(CONSOLE, session_s=60.0))
    wall.now_s = Wall().now_s + 61
    with pytest.raises(Unauthenticated, match="has ended"):
        caller(shorter, made, wall)


def test_gateways_with_the_same_secret_share_sessions_and_others_do_not(tmp_path: Path) -> None:
    def config(name: str, secret: str) -> GatewayConfig:
        (tmp_path / name).write_text(secret)
        shared = SecretConfig(file=str(tmp_path / name))
        return with_console(msgspec.structs.replace(CONSOLE, session_secret=shared))

    made = token(ANN, config("a", "a" * 32))
    assert caller(config("b", "a" * 32), made).actor == "ann@example.com"
    for other in (config("c", "c" * 32), CONFIG):
        with pytest.raises(Unauthenticated, match="has ended"):
            caller(other, made)


def test_without_a_console_no_session_is_taken() -> None:
    off = msgspec.structs.replace(CONFIG, server=ServerConfig())
    with pytest.raises(Unauthenticated, match="not known"):
        caller(off, token(ANN))


def test_what_a_browser_keeps_on_its_way_to_the_provider_is_no_session() -> None:
    sessions = authenticator().sessions
    assert sessions is not None
    sealed = sessions.flows.seal(msgspec.msgpack.encode(ANN))
    with pytest.raises(Unauthenticated, match="has ended"):
        caller(CONFIG, PREFIX + sealed)
    assert sessions.flows.open(token(ANN).removeprefix(PREFIX)) is None


def test_a_token_tells_nothing_and_is_no_longer_than_a_key() -> None:
    longest = PersonSession(rule_id(CONSOLE, OPERATORS), "x" * MAX_SUBJECT_BYTES)
    assert len(token(longest)) <= MAX_KEY_CHARACTERS
    assert caller(CONFIG, token(longest)).actor == longest.subject
    assert "ann" not in token(ANN)
    assert token(ANN) != token(ANN)


@given(st.integers(min_value=0), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_changed_token_is_refused(where: int, becomes: str) -> None:
    made = token(ANN)
    at = len(PREFIX) + where % (len(made) - len(PREFIX))
    changed = made[:at] + becomes + made[at + 1 :]
    if changed != made:
        with pytest.raises(Unauthenticated):
            caller(CONFIG, changed)


def test_other_letters_of_the_same_bytes_are_refused() -> None:
    tokens = (token(ANN).removeprefix(PREFIX) for _ in range(1000))
    sealed = next(each for each in tokens if "-" in each and "_" in each)
    changes = (sealed.replace("-", "+"), sealed.replace("_", "/"), sealed + "=", sealed + "!")
    for changed in changes:
        with pytest.raises(Unauthenticated):
            caller(CONFIG, PREFIX + changed)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=400))
def test_no_text_is_a_token(text: str) -> None:
    with pytest.raises(Unauthenticated):
        caller(CONFIG, PREFIX + text)
