"""Which fields of a key or tenant a request changes, and how the others stay."""

from __future__ import annotations

from collections.abc import Callable, Collection

from google.protobuf.field_mask_pb2 import FieldMask

from gateway.config.gateway import KeyConfig, TenantConfig
from gateway.config.limits import KeyLimitsConfig
from gateway.doors.grpc import errors
from gateway.doors.grpc.access.messages import convert, settings_message
from moegate.v1 import admin_pb2

FIELDS = tuple(admin_pb2.KeySettings.DESCRIPTOR.fields_by_name)
LIMIT = "limits."
"""Begins the path of one limit."""
LIMITS = tuple(f"{LIMIT}{name}" for name in KeyLimitsConfig.__struct_fields__)
TENANT_FIELDS = ("weight", "rpcs")


def changed_paths(mask: FieldMask) -> tuple[str, ...]:
    """Returns the paths in the settings of a key to change, in the order in which to change them.
    Raises RpcError (INVALID_ARGUMENT)."""
    _check(mask, (*FIELDS, *LIMITS), "of settings")
    return tuple(sorted(mask.paths)) or FIELDS


def changed_settings(
    config: KeyConfig, given: admin_pb2.KeySettings, paths: Collection[str]
) -> admin_pb2.KeySettings:
    """Returns what a key may do, with the given values of some fields. The expiry is left out."""
    merged = settings_message(config, None)
    changes = admin_pb2.KeySettings()
    changes.CopyFrom(given)
    if "limits" not in paths:
        changes.limits.SetInParent()  # single limits that are not given are taken out
    mask = FieldMask(paths=[path for path in paths if path != "expires_at"])
    mask.MergeMessage(changes, merged, replace_message_field=True, replace_repeated_field=True)
    if "remote_classes" in paths and given.HasField("remote_classes"):
        merged.remote_classes.SetInParent()  # none at all may be what is given
    return merged


def tenant_change(
    request: admin_pb2.SetTenantRequest,
) -> Callable[[TenantConfig | None], TenantConfig]:
    """Returns what makes the tenant from that of before; None: there was none. It raises RpcError
    (INVALID_ARGUMENT), and so does this."""
    given = request.tenant
    _check(request.update_mask, TENANT_FIELDS, "of tenant")
    present = {name: getattr(given, name) for name in TENANT_FIELDS if given.HasField(name)}
    paths = set(request.update_mask.paths) or set(present)

    def change(before: TenantConfig | None) -> TenantConfig:
        fields: dict[str, object] = {"name": given.name}
        for name in TENANT_FIELDS:
            if name not in paths:
                if before is not None:
                    fields[name] = getattr(before, name)
            elif name in present:
                fields[name] = present[name]
        return convert(fields, TenantConfig, "tenant", {})

    return change


def _check(mask: FieldMask, fields: Collection[str], whose: str) -> None:
    for path in mask.paths:
        if path not in fields:
            text = f"{path[:100]!r}: a field {whose}: {', '.join(fields)}"
            raise errors.invalid([("update_mask.paths", text)])
