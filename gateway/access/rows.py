"""Keys and tenants that were made at run time, as rows of the ledger's database.

A key has one row, and a secret of it has one row each; only hashes are stored. Revoked keys keep
their rows for a while, so that the list and the reports can tell what they were. Row 0 of `access`
is locked by every change: its version grows, so that processes which share the database see that
there is something to read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.accounting.ledger.database import Tx
from gateway.auth.run_time import AccessTable, RunTimeKey, SecretHash
from gateway.config.gateway import KeyConfig, TenantConfig

log = logging.getLogger(__name__)

_KEY = (
    "key_id, tenant, settings, expires_unix_us, created_unix_us, created_by, rotated_unix_us,"
    " revoked_unix_us"
)
_SECRET = "sha256, prefix, created_unix_us, until_unix_us"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRow:
    """A secret. `prefix`: the beginning of it, to tell it by. `until_us`: when it ends, Unix
    microseconds; None: with its key."""

    sha256: str
    prefix: str
    created_us: int
    until_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A key with its secrets, newest first. Times are Unix microseconds."""

    tenant: str
    config: KeyConfig
    expires_us: int | None
    created_us: int
    created_by: str
    rotated_us: int | None = None
    revoked_us: int | None = None
    secrets: tuple[SecretRow, ...] = ()

    def in_force(self, now_us: int) -> bool:
        """Whether it was neither revoked nor has expired."""
        expired = self.expires_us is not None and self.expires_us <= now_us
        return self.revoked_us is None and not expired

    def secrets_in_force(self, now_us: int) -> tuple[SecretRow, ...]:
        """Secrets that are taken as long as the key is."""
        return tuple(s for s in self.secrets if s.until_us is None or s.until_us > now_us)


async def next_version(tx: Tx) -> int:
    """Counts the version up. Until the transaction ends, no other one can change anything."""
    [(version,)] = await tx.rows(
        "UPDATE access SET version = version + 1 WHERE one = 0 RETURNING version"
    )
    return int(version)


async def version(tx: Tx) -> int:
    """The version."""
    [(found,)] = await tx.rows("SELECT version FROM access WHERE one = 0")
    return int(found)


async def access_table(tx: Tx) -> AccessTable:
    """What is in force, or may be again when an expiry changes. A row that this version cannot
    read is left out."""
    keys = await key_rows(tx, "revoked_unix_us IS NULL ORDER BY key_id")
    return AccessTable(
        version=await version(tx),
        tenants=tuple(await tenants(tx)),
        keys=tuple(
            RunTimeKey(
                tenant=row.tenant,
                config=row.config,
                expires_unix_s=_seconds(row.expires_us),
                secrets=tuple(
                    SecretHash(sha256=secret.sha256, until_unix_s=_seconds(secret.until_us))
                    for secret in row.secrets
                ),
            )
            for row in keys
        ),
    )


async def key_row(tx: Tx, key_id: str) -> KeyRow | None:
    """The key with this id."""
    found = await key_rows(tx, "key_id = $1", key_id)
    return found[0] if found else None


async def key_rows(tx: Tx, condition: str, *values: object) -> list[KeyRow]:
    """The keys that a condition selects, with their secrets."""
    rows = await tx.rows(f"SELECT {_KEY} FROM api_key WHERE {condition}", *values)
    secrets: dict[str, list[SecretRow]] = {}
    for key_id, *columns in await tx.rows(
        f"SELECT key_id, {_SECRET} FROM api_secret"
        f" WHERE key_id IN (SELECT key_id FROM api_key WHERE {condition})"
        " ORDER BY created_unix_us DESC, sha256",
        *values,
    ):
        sha256, prefix, created_us, until_us = columns
        secret = SecretRow(sha256=sha256, prefix=prefix, created_us=created_us, until_us=until_us)
        secrets.setdefault(key_id, []).append(secret)
    return [row for columns in rows if (row := _key(columns, secrets)) is not None]


def _key(columns: Sequence[Any], secrets: dict[str, list[SecretRow]]) -> KeyRow | None:
    key_id, tenant, settings, expires, created, created_by, rotated, revoked = columns
    try:
        config = msgspec.json.decode(settings, type=KeyConfig)
    except msgspec.ValidationError as error:
        log.error("key %s of the database is left out, it cannot be read: %s", key_id, error)
        return None
    return KeyRow(
        tenant=tenant,
        config=config,
        expires_us=expires,
        created_us=created,
        created_by=created_by,
        rotated_us=rotated,
        revoked_us=revoked,
        secrets=tuple(secrets.get(key_id, ())),
    )


async def insert_key(tx: Tx, row: KeyRow) -> bool:
    """Stores a key with its secrets; False: there is one of this id."""
    added = await tx.run(
        f"INSERT INTO api_key ({_KEY}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
        " ON CONFLICT (key_id) DO NOTHING",
        *(row.config.id, row.tenant, settings_json(row.config), row.expires_us),
        *(row.created_us, row.created_by, row.rotated_us, row.revoked_us),
    )
    if added:
        for secret in row.secrets:
            await insert_secret(tx, row.config.id, secret)
    return bool(added)


async def insert_secret(tx: Tx, key_id: str, secret: SecretRow) -> None:
    """Stores a secret of a key."""
    await tx.run(
        f"INSERT INTO api_secret (key_id, {_SECRET}) VALUES ($1, $2, $3, $4, $5)",
        *(key_id, secret.sha256, secret.prefix, secret.created_us, secret.until_us),
    )


async def store_key(tx: Tx, row: KeyRow) -> None:
    """Stores what may have changed of a key, its secrets apart."""
    await tx.run(
        "UPDATE api_key SET settings = $2, expires_unix_us = $3, rotated_unix_us = $4,"
        " revoked_unix_us = $5 WHERE key_id = $1",
        *(row.config.id, settings_json(row.config), row.expires_us),
        *(row.rotated_us, row.revoked_us),
    )


async def end_secrets(tx: Tx, key_id: str, until_us: int) -> None:
    """Lets the secrets of a key end at a time, unless they end before; drops those that ended."""
    await tx.run(
        "UPDATE api_secret SET until_unix_us = $2"
        " WHERE key_id = $1 AND (until_unix_us IS NULL OR until_unix_us > $2)",
        *(key_id, until_us),
    )


async def drop_secrets(tx: Tx, key_id: str, now_us: int) -> None:
    """Deletes the secrets of a key that have ended."""
    await tx.run("DELETE FROM api_secret WHERE key_id = $1 AND until_unix_us <= $2", key_id, now_us)


async def count_keys(tx: Tx, tenant: str | None = None) -> int:
    """How many keys were not revoked. `tenant`: None: of all tenants."""
    sql = "SELECT COUNT(*) FROM api_key WHERE revoked_unix_us IS NULL"
    if tenant is None:
        [(found,)] = await tx.rows(sql)
    else:
        [(found,)] = await tx.rows(f"{sql} AND tenant = $1", tenant)
    return int(found)


async def tenants(tx: Tx) -> list[TenantConfig]:
    """The tenants, by name, without keys."""
    return [
        TenantConfig(name=name, weight=weight, rpcs=rpcs)
        for name, weight, rpcs in await tx.rows(
            "SELECT name, weight, rpcs FROM tenant ORDER BY name"
        )
    ]


async def store_tenant(tx: Tx, tenant: TenantConfig) -> None:
    """Stores a tenant, its keys apart."""
    await tx.run(
        "INSERT INTO tenant (name, weight, rpcs) VALUES ($1, $2, $3)"
        " ON CONFLICT (name) DO UPDATE SET weight = $2, rpcs = $3",
        *(tenant.name, tenant.weight, tenant.rpcs),
    )


async def drop_tenant(tx: Tx, name: str) -> None:
    """Deletes a tenant."""
    await tx.run("DELETE FROM tenant WHERE name = $1", name)


async def delete_revoked(tx: Tx, before_us: int) -> None:
    """Deletes keys that were revoked before a time: their ids are free again."""
    old = "SELECT key_id FROM api_key WHERE revoked_unix_us < $1"
    await tx.run(f"DELETE FROM api_secret WHERE key_id IN ({old})", before_us)
    await tx.run("DELETE FROM api_key WHERE revoked_unix_us < $1", before_us)


def settings_json(config: KeyConfig) -> str:
    """What a key may do, as it is stored; it has no secret."""
    assert config.sha256 is None
    assert config.api_key is None
    return msgspec.json.encode(config).decode()


def _seconds(unix_us: int | None) -> float | None:
    return None if unix_us is None else unix_us / 1e6
