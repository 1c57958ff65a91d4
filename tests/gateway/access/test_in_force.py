"""Whatever happens to keys, one is taken exactly while it is in force: on a real database, with a
clock of the test."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access.audit import events
from gateway.access.changes import (
    AccessRefused,
    By,
    Files,
    create_key,
    revoke_key,
    rotate_key,
    update_key,
)
from gateway.access.rows import access_table, delete_revoked
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from gateway.auth.authenticator import Authenticator, Unauthenticated
from gateway.auth.run_time import AccessTable
from gateway.config.gateway import GatewayConfig, KeyConfig, TenantConfig
from gateway.config.resolve.api_keys import key_sha256
from tests.ledgers import make_tables

CONFIG = GatewayConfig(
    tenants=(
        TenantConfig(name="team", keys=(KeyConfig(id="declared", sha256=key_sha256("mg-file")),)),
    )
)
IDS = ("a", "b", "declared")
SECOND = 1_000_000


@dataclass
class Model:
    """What should hold: for each secret its key and when it ends; for each key its end."""

    secrets: dict[str, tuple[str, float]] = field(default_factory=dict)
    expires: dict[str, float] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)

    def taken(self, secret: str, now_s: float) -> bool:
        key, until_s = self.secrets[secret]
        return key not in self.revoked and now_s < min(until_s, self.expires[key])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from(IDS), st.none() | st.integers(1, 9)),
        st.tuples(st.just("rotate"), st.sampled_from(IDS), st.integers(0, 9)),
        st.tuples(st.just("revoke"), st.sampled_from(IDS), st.none()),
        st.tuples(st.just("expire"), st.sampled_from(IDS), st.none() | st.integers(-9, 9)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 5)),
    ),
    max_size=20,
)


class World:
    """A database, what it should hold, and a time, Unix seconds."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        make_tables(self.connection)
        self.model = Model()
        self.now_s = 1_800_000_000
        self.declared = Authenticator(CONFIG, Path(), wall=lambda: self.now_s)

    def run(self, transaction: Callable[[SqliteTx], Any]) -> Any:
        self.connection.execute("BEGIN")
        try:
            result = run_now(transaction(SqliteTx(self.connection)))
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return result

    def by(self) -> By:
        return By(files=Files(CONFIG, "gateway.yaml"), actor="boss", now_us=self.now_s * SECOND)

    def table(self) -> AccessTable:
        found: AccessTable = self.run(access_table)
        return found

    def step(self, what: str, key: str, number: int | None) -> None:
        """Does one thing to the database, and the same to the model."""
        model, at_s = self.model, float("inf") if number is None else self.now_s + number
        ends_us = None if number is None else (self.now_s + number) * SECOND
        exists = key in model.expires and key not in model.revoked
        try:
            match what:
                case "wait":
                    self.now_s += number or 0
                case "create":
                    config = KeyConfig(id=key)
                    _, secret = self.run(
                        lambda tx: create_key(tx, self.by(), "team", config, ends_us)
                    )
                    model.secrets[secret] = key, float("inf")
                    model.expires[key] = at_s
                case "rotate":
                    grace_us = (number or 0) * SECOND
                    _, secret = self.run(lambda tx: rotate_key(tx, self.by(), key, grace_us, allow))
                    for old, (its, until_s) in model.secrets.items():
                        if its == key:
                            model.secrets[old] = its, min(until_s, at_s)
                    model.secrets[secret] = key, float("inf")
                case "revoke":
                    self.run(lambda tx: revoke_key(tx, self.by(), key, allow))
                    model.revoked.add(key)
                case "expire":
                    self.run(
                        lambda tx: update_key(
                            *(tx, self.by(), key),
                            lambda row: replace(row, expires_us=ends_us),
                            allow,
                        )
                    )
                    model.expires[key] = at_s
        except AccessRefused:
            in_force = sum(
                1
                for s, (its, _) in model.secrets.items()
                if its == key and model.taken(s, self.now_s)
            )
            if what == "create":
                assert key in model.expires or key == "declared"
            else:
                assert not exists or (what == "rotate" and in_force >= 5)
        else:
            assert what == "wait" or (what == "create") != exists

    def check(self) -> None:
        authenticator = self.declared.with_table(self.table())
        assert taken(authenticator, "mg-file") == "declared"
        for secret, (key, _) in self.model.secrets.items():
            expected = key if self.model.taken(secret, self.now_s) else None
            assert taken(authenticator, secret) == expected
            caller = authenticator.caller_of(key)
            alive = key not in self.model.revoked and self.now_s < self.model.expires[key]
            assert (caller is not None) == alive


def allow(_: object) -> None:
    """Everybody may."""


def taken(authenticator: Authenticator, secret: str) -> str | None:
    try:
        return authenticator.authenticate((("x-api-key", secret),)).key_id
    except Unauthenticated:
        return None


@settings(max_examples=60)
@given(steps)
def test_a_key_is_taken_exactly_while_it_is_in_force(
    todo: Sequence[tuple[str, str, int | None]],
) -> None:
    world = World()
    for what, key, number in todo:
        world.step(what, key, number)
        world.check()
    dump = "\n".join(world.connection.iterdump())
    assert all(secret not in dump for secret in world.model.secrets)
    found = world.run(
        lambda tx: events(tx, tenant="", actor="", target="", before_id=2**62, limit=1000)
    )
    assert all(key_sha256(secret) not in repr(found) for secret in world.model.secrets)
    world.connection.close()


def test_ids_of_keys_that_were_revoked_long_ago_are_free() -> None:
    world = World()
    world.step("create", "a", None)
    world.step("create", "b", None)
    world.step("revoke", "a", None)
    world.run(lambda tx: delete_revoked(tx, world.now_s * SECOND))
    world.step("wait", "", 1)
    world.check()
    world.run(lambda tx: delete_revoked(tx, world.now_s * SECOND))
    world.model = Model(
        secrets={s: v for s, v in world.model.secrets.items() if v[0] == "b"},
        expires={"b": float("inf")},
    )
    world.step("create", "a", None)
    world.check()
    world.connection.close()


def test_the_number_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.access.changes.MAX_TENANT_KEYS", 2)
    world = World()
    world.step("create", "a", None)
    world.step("create", "b", None)
    config = KeyConfig(id="c")
    with pytest.raises(AccessRefused, match="has 2 keys: revoke some first"):
        world.run(lambda tx: create_key(tx, world.by(), "team", config, None))
    world.step("revoke", "a", None)
    world.step("create", "c", None)
    world.check()
    world.connection.close()
