"""Pages of keys, and the list of tenants: what the file declares, and what was made at run time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.access.rows import KeyRow, key_rows
from gateway.accounting.ledger.database import Dialect, Tx
from gateway.config.gateway import GatewayConfig
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc import errors
from gateway.doors.grpc.access.messages import file_key, tenant_message
from moegate.v1 import admin_pb2

PAGE = 100
LONGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class KeyPages:
    """Keys by id. `tenant`, `key_id`: empty: of all."""

    config: GatewayConfig
    tenant: str
    key_id: str
    with_revoked: bool

    def declared(self, after: str) -> Iterator[admin_pb2.Key]:
        """Yields the keys of the file that come after an id."""
        for tenant in self.config.tenants:
            for key in tenant.keys:
                if (
                    key.id > after
                    and self.tenant in ("", tenant.name)
                    and self.key_id in ("", key.id)
                ):
                    yield file_key(tenant.name, key)

    async def rows(self, tx: Tx, after: str, limit: int) -> Sequence[KeyRow]:
        """The keys made at run time that come after an id, one more than `limit`."""
        # By bytes, as Python compares ids: the collation of a database may differ.
        order = 'key_id COLLATE "C"' if tx.dialect is Dialect.POSTGRES else "key_id"
        conditions, values = [f"{order} > $1"], [after]
        if self.tenant:
            values.append(self.tenant)
            conditions.append(f"tenant = ${len(values)}")
        if self.key_id:
            values.append(self.key_id)
            conditions.append(f"key_id = ${len(values)}")
        if not self.with_revoked:
            conditions.append("revoked_unix_us IS NULL")
        condition = f"{' AND '.join(conditions)} ORDER BY {order} LIMIT {limit + 1}"
        return await key_rows(tx, condition, *values)


def tenant_messages(active: ActiveSettings, now_us: int) -> list[admin_pb2.Tenant]:
    """Returns all tenants by name, with the number of their keys in force."""
    declared = {tenant.name for tenant in active.config.tenants}
    expired = {
        key.config.id
        for key in active.access.keys
        if key.expires_unix_s is not None and key.expires_unix_s * 1e6 <= now_us
    }
    expired -= {key.id for tenant in active.config.tenants for key in tenant.keys}
    return [
        tenant_message(
            tenant,
            admin_pb2.OWNER_FILE if tenant.name in declared else admin_pb2.OWNER_RUN_TIME,
            sum(key.id not in expired for key in tenant.keys),
        )
        for tenant in sorted(active.effective.tenants, key=lambda tenant: tenant.name)
    ]


def page_of(size: int) -> int:
    """Returns the length of a page. Raises RpcError (INVALID_ARGUMENT)."""
    if not 0 <= size <= LONGEST_PAGE:
        raise errors.invalid([("page_size", f"{size}: give 1 to {LONGEST_PAGE}, or 0: {PAGE}")])
    return size or PAGE
