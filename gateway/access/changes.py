"""Changes of keys and tenants at run time, each one transaction with its event in the audit log.

What the configuration file declares is not changed here: `Files` knows it. A secret leaves this
module once, in the answer; the database gets its hash.
"""

from __future__ import annotations

import secrets as random_secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from gateway.access.audit import Event, record
from gateway.access.rows import (
    KeyRow,
    SecretRow,
    count_keys,
    drop_secrets,
    drop_tenant,
    end_secrets,
    insert_key,
    insert_secret,
    key_row,
    next_version,
    store_key,
    store_tenant,
    tenants,
)
from gateway.accounting.ledger.database import Tx
from gateway.config.gateway import GatewayConfig, KeyConfig, TenantConfig
from gateway.config.resolve.api_keys import key_sha256

SECRET_BYTES = 32
PREFIX_CHARACTERS = 9
"""Of a secret are shown: six of its 43 random characters."""
MAX_KEYS = 4000
"""Most keys made at run time that were not revoked."""
MAX_TENANT_KEYS = 1000
"""The same, of one tenant."""
MAX_TENANTS = 1000
MAX_SECRETS = 5
"""Most secrets of a key that are taken at once."""


class AccessRefused(Exception):
    """A change is not made. The text has field, value and fix."""


class NoSuchEntry(AccessRefused):
    """There is no such key or tenant."""


class NameTaken(AccessRefused):
    """The name is in use."""


@dataclass(frozen=True, slots=True)
class Files:
    """What the configuration file declares. `source`: its name, for people."""

    config: GatewayConfig
    source: str

    def check_key(self, key_id: str) -> None:
        """Raises AccessRefused for a key of the file."""
        if any(key.id == key_id for tenant in self.config.tenants for key in tenant.keys):
            raise AccessRefused(
                f"key_id: {key_id!r} is declared in {self.source}: change it there and reload "
                "(moegate admin reload)"
            )

    def check_tenant(self, name: str) -> None:
        """Raises AccessRefused for a tenant of the file."""
        if any(tenant.name == name for tenant in self.config.tenants):
            raise AccessRefused(
                f"tenant.name: {name!r} is declared in {self.source}: change it there and reload "
                "(moegate admin reload)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who makes a change: `actor`, for the audit log. `now_us`: Unix microseconds."""

    files: Files
    actor: str
    now_us: int


Allowed = Callable[[KeyRow], None]
"""Raises an exception of the caller's if the caller may not manage such a key."""


async def create_key(
    tx: Tx, by: By, tenant: str, config: KeyConfig, expires_us: int | None
) -> tuple[KeyRow, str]:
    """Makes a key. Returns it and its secret. Raises AccessRefused."""
    await next_version(tx)
    if any(key.id == config.id for each in by.files.config.tenants for key in each.keys):
        raise NameTaken(
            f"key_id: {config.id!r} is a key of {by.files.source}: choose another id, or remove it "
            "there and reload"
        )
    known = {each.name for each in (*by.files.config.tenants, *await tenants(tx))}
    if tenant not in known:
        listed = ", ".join(sorted(known)[:10]) or "none"
        raise NoSuchEntry(f"tenant: {tenant!r}: no such tenant; there are: {listed}")
    if await count_keys(tx, tenant) >= MAX_TENANT_KEYS:
        raise AccessRefused(f"tenant: {tenant!r} has {MAX_TENANT_KEYS} keys: revoke some first")
    if await count_keys(tx) >= MAX_KEYS:
        raise AccessRefused(f"key_id: there are {MAX_KEYS} keys: revoke some first")
    secret = _new_secret()
    row = KeyRow(
        tenant=tenant,
        config=config,
        expires_us=expires_us,
        created_us=by.now_us,
        created_by=by.actor,
        secrets=(_secret_row(secret, by.now_us),),
    )
    if not await insert_key(tx, row):
        raise NameTaken(
            f"key_id: {config.id!r} is or was a key made at run time: choose another id"
        )
    await _record(tx, by.actor, "CreateKey", None, row)
    return row, secret


async def update_key(
    tx: Tx,
    by: By,
    key_id: str,
    change: Callable[[KeyRow], KeyRow],
    allowed: Allowed,
) -> KeyRow:
    """Changes what a key may do. `change`: returns the changed row. Raises AccessRefused."""
    row = await _found(tx, by, key_id, allowed)
    changed = change(row)
    await store_key(tx, changed)
    await _record(tx, by.actor, "UpdateKey", row, changed)
    return changed


async def rotate_key(
    tx: Tx, by: By, key_id: str, grace_us: int, allowed: Allowed
) -> tuple[KeyRow, str]:
    """Gives a key another secret. The ones of before go on for `grace_us`, those that end earlier
    until then. Returns the key and the new secret. Raises AccessRefused."""
    row = await _found(tx, by, key_id, allowed)
    await end_secrets(tx, key_id, by.now_us + grace_us)
    await drop_secrets(tx, key_id, by.now_us)
    if grace_us and len(row.secrets_in_force(by.now_us)) >= MAX_SECRETS:
        raise AccessRefused(
            f"key_id: {key_id!r} has {MAX_SECRETS} secrets that are taken: wait until one ends, or "
            "rotate without a grace period"
        )
    secret = _new_secret()
    await insert_secret(tx, key_id, _secret_row(secret, by.now_us))
    changed = replace(row, rotated_us=by.now_us)
    await store_key(tx, changed)
    rotated = await key_row(tx, key_id)
    assert rotated is not None
    await _record(tx, by.actor, "RotateKey", row, rotated)
    return rotated, secret


async def revoke_key(tx: Tx, by: By, key_id: str, allowed: Allowed) -> KeyRow:
    """Ends a key for good. Raises AccessRefused."""
    row = await _found(tx, by, key_id, allowed)
    changed = replace(row, revoked_us=by.now_us)
    await store_key(tx, changed)
    await _record(tx, by.actor, "RevokeKey", row, changed)
    return changed


async def set_tenant(
    tx: Tx, by: By, name: str, change: Callable[[TenantConfig | None], TenantConfig]
) -> TenantConfig:
    """Makes a tenant or changes it. `change`: returns the tenant from that of before; None: there
    was none. Raises AccessRefused."""
    await next_version(tx)
    by.files.check_tenant(name)
    known = {each.name: each for each in await tenants(tx)}
    before = known.get(name)
    if before is None and len(known) >= MAX_TENANTS:
        raise AccessRefused(f"tenant.name: there are {MAX_TENANTS} tenants: delete some first")
    tenant = change(before)
    await store_tenant(tx, tenant)
    await record(
        tx,
        Event(
            actor=by.actor,
            action="SetTenant",
            tenant=tenant.name,
            target=tenant.name,
            before=None if before is None else _tenant(before),
            after=_tenant(tenant),
        ),
    )
    return tenant


async def delete_tenant(tx: Tx, by: By, name: str) -> None:
    """Deletes a tenant without keys. Raises AccessRefused."""
    await next_version(tx)
    by.files.check_tenant(name)
    known = {each.name: each for each in await tenants(tx)}
    if name not in known:
        raise NoSuchEntry(f"name: {name[:100]!r}: no tenant of this name was made at run time")
    if left := await count_keys(tx, name):
        raise AccessRefused(f"name: {name!r} has {left} keys: revoke them first")
    await drop_tenant(tx, name)
    event = Event(
        actor=by.actor, action="DeleteTenant", tenant=name, target=name, before=_tenant(known[name])
    )
    await record(tx, event)


async def _found(tx: Tx, by: By, key_id: str, allowed: Allowed) -> KeyRow:
    """The key to change, which nobody else changes meanwhile. Raises AccessRefused."""
    await next_version(tx)
    row = await key_row(tx, key_id)
    if row is None:
        by.files.check_key(key_id)
        raise NoSuchEntry(f"key_id: {key_id[:100]!r}: no such key")
    allowed(row)
    if row.revoked_us is not None:
        raise AccessRefused(f"key_id: {key_id!r} was revoked, for good: create another one")
    return row


def _new_secret() -> str:
    return f"mg-{random_secrets.token_urlsafe(SECRET_BYTES)}"


def _secret_row(secret: str, now_us: int) -> SecretRow:
    return SecretRow(
        sha256=key_sha256(secret), prefix=secret[:PREFIX_CHARACTERS], created_us=now_us
    )


async def _record(tx: Tx, actor: str, action: str, before: KeyRow | None, after: KeyRow) -> None:
    await record(
        tx,
        Event(
            actor=actor,
            action=action,
            tenant=after.tenant,
            target=after.config.id,
            before=None if before is None else key_state(before),
            after=key_state(after),
        ),
    )


def key_state(row: KeyRow) -> Mapping[str, object]:
    """How a key stands, for the audit log: without secrets and hashes."""
    settings: dict[str, object] = {
        name: value
        for name, value in msgspec.to_builtins(row.config).items()
        if value not in (None, [], (), {}, 0) and name not in ("id", "limits")
    }
    limits = {k: v for k, v in msgspec.to_builtins(row.config.limits).items() if v is not None}
    if limits:
        settings["limits"] = limits
    if row.config.remote_classes == ():
        settings["remote_classes"] = []
    for name, at_us in (("expires_at", row.expires_us), ("revoked_at", row.revoked_us)):
        if at_us is not None:
            settings[name] = _time(at_us)
    settings["secrets"] = [
        {"prefix": secret.prefix}
        | ({} if secret.until_us is None else {"until": _time(secret.until_us)})
        for secret in row.secrets
    ]
    return settings


def _tenant(tenant: TenantConfig) -> Mapping[str, object]:
    return {"weight": tenant.weight, "rpcs": tenant.rpcs}


def _time(unix_us: int) -> str:
    return datetime.fromtimestamp(unix_us / 1e6, UTC).isoformat(timespec="seconds")
