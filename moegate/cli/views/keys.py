"""The tables of `moegate keys list`, `moegate tenants list` and `moegate audit`."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from moegate.cli.views.fitted_table import Column, FittedTable, number
from moegate.v1 import admin_pb2, generation_pb2


def time_text(timestamp: Timestamp) -> str:
    """A time in UTC to the minute; empty: there is none."""
    return timestamp.ToDatetime().isoformat(" ", "minutes") if timestamp.seconds else ""


def keys_table(keys: Iterable[admin_pb2.Key]) -> FittedTable:
    """A row for each key."""
    rows = FittedTable(
        [
            *(Column(header=name) for name in ("key", "tenant", "state")),
            Column(header="role", leaves=2),
            Column(header="secret", leaves=1),
            Column(header="expires (UTC)", leaves=1),
            Column(header="may", wraps=16, leaves=3),
            Column(header="owner"),
            Column(header="made", leaves=4),
        ]
    )
    for key in keys:
        state = admin_pb2.KeyState.Name(key.state).removeprefix("KEY_STATE_")
        secret = f"{key.secret_prefix}..." if key.secret_prefix else ""
        if key.secrets > 1:
            secret += f" +{key.secrets - 1}"
        made = f"{time_text(key.created_at)} by {key.created_by}" if key.created_by else ""
        role = admin_pb2.KeyRole.Name(key.settings.role).removeprefix("KEY_ROLE_")
        rows.add_row(
            *(key.key_id, key.tenant, _words(state), _words(role), secret),
            *(time_text(key.settings.expires_at), ", ".join(_rights(key.settings))),
            *(_owner(key.owner), made),
            style="" if key.state == admin_pb2.KEY_STATE_IN_FORCE else "dim",
        )
    return rows


def tenants_table(tenants: Iterable[admin_pb2.Tenant]) -> FittedTable:
    """A row for each tenant."""
    rows = FittedTable(
        [
            Column(header="tenant"),
            *(number(name) for name in ("weight", "rpcs", "keys")),
            Column(header="owner"),
        ]
    )
    for tenant in tenants:
        rpcs = str(tenant.rpcs) if tenant.HasField("rpcs") else ""
        rows.add_row(
            tenant.name, f"{tenant.weight:g}", rpcs, str(tenant.keys), _owner(tenant.owner)
        )
    return rows


def audit_table(events: Iterable[admin_pb2.AuditEvent]) -> FittedTable:
    """A row for each event."""
    rows = FittedTable(
        [
            Column(header="at (UTC)"),
            *(Column(header=name) for name in ("who", "what")),
            Column(header="to", wraps=12),
            Column(header="before", wraps=24, leaves=2),
            Column(header="after", wraps=24, leaves=1),
        ]
    )
    for event in events:
        at = event.at.ToDatetime().isoformat(" ", "seconds")
        rows.add_row(
            *(at, event.actor, event.action, event.target), event.before_json, event.after_json
        )
    return rows


def _rights(settings: admin_pb2.KeySettings) -> Iterable[str]:
    if settings.models:
        yield f"models {' '.join(settings.models)}"
    for slo_class in settings.slo_classes:
        yield _words(generation_pb2.SloClass.Name(slo_class).removeprefix("SLO_CLASS_"))
    if settings.HasField("remote_classes"):
        yield f"remotes {' '.join(settings.remote_classes.names) or 'none'}"
    if settings.max_priority:
        yield f"priority {settings.max_priority}"
    for field, value in (*settings.limits.ListFields(),):
        yield f"{field.name} {value}"


def _owner(owner: admin_pb2.Owner) -> str:
    return _words(admin_pb2.Owner.Name(owner).removeprefix("OWNER_"))


def _words(name: str) -> str:
    return name.lower().replace("_", " ")
