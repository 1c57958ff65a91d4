"""Keys, tenants and events of the audit log as messages, and the settings of a key from one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.access.audit import RecordedEvent
from gateway.access.rows import KeyRow
from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole, TenantConfig
from gateway.config.limits import KeyLimitsConfig
from gateway.config.resolve.key_problems import key_problems
from gateway.doors.grpc import errors
from gateway.doors.grpc.times import microseconds_of
from gateway.translation.slo_classes import CLASS_OF, PROTO_OF
from moegate.v1 import admin_pb2

S = TypeVar("S", bound=msgspec.Struct)
MAX_NAMES = 200
"""Most models of one key, and most classes of remotes."""
ROLE_OF = {
    admin_pb2.KEY_ROLE_UNSPECIFIED: KeyRole.CALLER,
    admin_pb2.KEY_ROLE_CALLER: KeyRole.CALLER,
    admin_pb2.KEY_ROLE_TENANT_ADMIN: KeyRole.TENANT_ADMIN,
    admin_pb2.KEY_ROLE_OPERATOR: KeyRole.OPERATOR,
}
_ROLE_NUMBERS = {role: number for number, role in ROLE_OF.items()}
_LIMITS = KeyLimitsConfig.__struct_fields__


def key_config(key_id: str, settings: admin_pb2.KeySettings, config: GatewayConfig) -> KeyConfig:
    """Returns what a key may do. `config`: whose models and classes it may name. Raises RpcError
    (INVALID_ARGUMENT) with field, value and fix."""
    if settings.role not in ROLE_OF:
        raise errors.invalid([("settings.role", f"{settings.role}: give a role that there is")])
    for i, number in enumerate(settings.slo_classes):
        if number not in CLASS_OF:
            fault = f"{number}: give interactive, standard or batch"
            raise errors.invalid([(f"settings.slo_classes[{i}]", fault)])
    for field, names in (
        ("models", settings.models),
        ("remote_classes.names", settings.remote_classes.names),
    ):
        if len(names) > MAX_NAMES:
            text = f"{len(names)} names: give at most {MAX_NAMES}"
            raise errors.invalid([(f"settings.{field}", text)])
    fields: dict[str, object] = {
        "id": key_id,
        "role": ROLE_OF[settings.role].value,
        "models": list(settings.models),
        "slo_classes": [CLASS_OF[number].value for number in settings.slo_classes],
        "remote_classes": (
            list(settings.remote_classes.names) if settings.HasField("remote_classes") else None
        ),
        "max_priority": settings.max_priority,
        "limits": {
            name: getattr(settings.limits, name)
            for name in _LIMITS
            if settings.limits.HasField(name)
        },
    }
    for name in ("min_ttft_s", "min_tpot_s"):
        if settings.HasField(name):
            fields[name] = getattr(settings, name)
    made = convert(fields, KeyConfig, "settings", {"id": "key_id"})
    problems = list(key_problems("settings", made, config))
    if problems:
        raise errors.invalid([(p.path, f"{p.value}: {p.message}: {p.fix}") for p in problems])
    return made


def convert(
    fields: Mapping[str, object], struct: type[S], path: str, renamed: Mapping[str, str]
) -> S:
    """Returns a struct of the configuration from fields of a message, with the configuration's
    bounds. `renamed`: fields that are elsewhere in the message. Raises RpcError
    (INVALID_ARGUMENT)."""
    try:
        return msgspec.convert(fields, struct)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$.")
        field = where.rstrip("`")
        named = renamed.get(field, f"{path}.{field}" if field else path)
        value = fields.get(field, "")
        raise errors.invalid([(named, f"{str(value)[:100]!r}: {text}")]) from None


def settings_message(config: KeyConfig, expires_us: int | None) -> admin_pb2.KeySettings:
    """Converts what a key may do."""
    message = admin_pb2.KeySettings(
        role=_ROLE_NUMBERS[config.role],
        models=config.models,
        slo_classes=[PROTO_OF[each] for each in config.slo_classes],
        min_ttft_s=config.min_ttft_s,
        min_tpot_s=config.min_tpot_s,
        max_priority=config.max_priority,
        limits=admin_pb2.KeyLimits(**{name: getattr(config.limits, name) for name in _LIMITS}),
        expires_at=_time(expires_us),
    )
    if config.remote_classes is not None:
        message.remote_classes.names.extend(config.remote_classes)
        message.remote_classes.SetInParent()
    return message


def file_key(tenant: str, config: KeyConfig) -> admin_pb2.Key:
    """Converts a key of the configuration file."""
    return admin_pb2.Key(
        key_id=config.id,
        tenant=tenant,
        owner=admin_pb2.OWNER_FILE,
        state=admin_pb2.KEY_STATE_IN_FORCE,
        settings=settings_message(config, None),
        secrets=1,
    )


def run_time_key(row: KeyRow, now_us: int, *, shadowed: bool) -> admin_pb2.Key:
    """Converts a key made at run time. `shadowed`: see `KEY_STATE_SHADOWED`."""
    state = admin_pb2.KEY_STATE_IN_FORCE
    if row.revoked_us is not None:
        state = admin_pb2.KEY_STATE_REVOKED
    elif shadowed:
        state = admin_pb2.KEY_STATE_SHADOWED
    elif not row.in_force(now_us):
        state = admin_pb2.KEY_STATE_EXPIRED
    taken = state == admin_pb2.KEY_STATE_IN_FORCE
    return admin_pb2.Key(
        key_id=row.config.id,
        tenant=row.tenant,
        owner=admin_pb2.OWNER_RUN_TIME,
        state=state,
        settings=settings_message(row.config, row.expires_us),
        secret_prefix=row.secrets[0].prefix if row.secrets else "",
        secrets=len(row.secrets_in_force(now_us)) if taken else 0,
        created_at=_time(row.created_us),
        created_by=row.created_by,
        rotated_at=_time(row.rotated_us),
        revoked_at=_time(row.revoked_us),
    )


def tenant_message(tenant: TenantConfig, owner: admin_pb2.Owner, keys: int) -> admin_pb2.Tenant:
    """Converts a tenant. `keys`: those that are in force."""
    return admin_pb2.Tenant(
        name=tenant.name, weight=tenant.weight, rpcs=tenant.rpcs, owner=owner, keys=keys
    )


def event_message(event: RecordedEvent) -> admin_pb2.AuditEvent:
    """Converts an event."""
    return admin_pb2.AuditEvent(
        event_id=event.event_id,
        at=_time(event.at_us),
        actor=event.actor,
        action=event.action,
        tenant=event.tenant,
        target=event.target,
        before_json=event.before_json,
        after_json=event.after_json,
    )


def expiry_us(settings: admin_pb2.KeySettings) -> int | None:
    """Returns when a key expires, Unix microseconds; None: never. Raises RpcError
    (INVALID_ARGUMENT)."""
    if not settings.HasField("expires_at"):
        return None
    try:
        return microseconds_of(settings.expires_at)
    except ValueError as error:
        raise errors.invalid([("settings.expires_at", str(error))]) from None


def _time(unix_us: int | None) -> Timestamp | None:
    if unix_us is None:
        return None
    message = Timestamp()
    message.FromMicroseconds(unix_us)
    return message
