"""Keys and tenants that were made at run time, beside those of the configuration file.

An `AccessTable` is what every process that authenticates has of them: hashes, never secrets. The
file comes first: a key or tenant of the table whose name the file has, too, is shadowed, which
means that it is not in force.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from gateway.config.gateway import GatewayConfig, KeyConfig, TenantConfig
from gateway.config.problems import Problem, problem


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretHash:
    """One secret of a key. `until_unix_s`: when it ends; None: with its key."""

    sha256: str
    until_unix_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimeKey:
    """A key that was not revoked. `config`: without a secret. `expires_unix_s`: None: never."""

    tenant: str
    config: KeyConfig
    secrets: tuple[SecretHash, ...]
    expires_unix_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessTable:
    """All of them. `version` grows with each change; `tenants` are without keys."""

    version: int = 0
    tenants: tuple[TenantConfig, ...] = ()
    keys: tuple[RunTimeKey, ...] = ()


NO_RUN_TIME_ACCESS = AccessTable()


def newest(welcomed: AccessTable, told: AccessTable) -> AccessTable:
    """Returns the newer one of the table that a process was welcomed with, and the one that it was
    told since: which of them came first is not known."""
    return max(welcomed, told, key=lambda table: table.version)


def with_run_time(config: GatewayConfig, table: AccessTable) -> GatewayConfig:
    """Returns the configuration with the tenants and keys of a table that are not shadowed. The
    added keys have no secrets."""
    if not table.tenants and not table.keys:
        return config
    tenants = {tenant.name: tenant for tenant in (*table.tenants, *config.tenants)}
    taken = {key.id for tenant in config.tenants for key in tenant.keys}
    added: dict[str, list[KeyConfig]] = defaultdict(list)
    for key in table.keys:
        if key.config.id not in taken:
            added[key.tenant].append(key.config)
    merged = [
        msgspec.structs.replace(tenant, keys=(*tenant.keys, *added[name]))
        for name, tenant in tenants.items()
    ]
    return msgspec.structs.replace(config, tenants=tuple(merged))


def clashes(config: GatewayConfig, table: AccessTable) -> Iterator[Problem]:
    """Yields a problem for each name of the file that was given at run time already, and for each
    tenant that keys made at run time need."""
    tenants = {tenant.name for tenant in table.tenants}
    keys = {key.config.id: key for key in table.keys}
    for t, tenant in enumerate(config.tenants):
        if tenant.name in tenants:
            message = "a tenant of this name was made at run time"
            fix = f"choose another name, or first `moegate tenants delete {tenant.name}`"
            yield problem(f"tenants[{t}].name", tenant.name, message, fix)
        for k, key in enumerate(tenant.keys):
            if key.id in keys:
                message = "a key of this id was made at run time"
                fix = f"choose another id, or first `moegate keys revoke {key.id}`"
                yield problem(f"tenants[{t}].keys[{k}].id", key.id, message, fix)
    known = tenants | {tenant.name for tenant in config.tenants}
    missing = sorted({key.tenant for key in table.keys} - known)
    for name in missing:
        ids = [key.config.id for key in table.keys if key.tenant == name]
        message = f"the file has no tenant {name}, but {len(ids)} keys made at run time are of it"
        fix = f"keep the tenant, or first revoke its keys: {', '.join(ids[:5])}"
        yield problem("tenants", name, message, fix)
