"""Keys in words, and the settings of a key from a form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from gateway.doors.console.problems import Problem
from moegate.v1 import admin_pb2

ROLES = {
    "caller": admin_pb2.KEY_ROLE_CALLER,
    "tenant admin": admin_pb2.KEY_ROLE_TENANT_ADMIN,
    "operator": admin_pb2.KEY_ROLE_OPERATOR,
}
ROLE_NAMES = {number: name for name, number in ROLES.items()}
STATES = {
    admin_pb2.KEY_STATE_IN_FORCE: ("in force", "good"),
    admin_pb2.KEY_STATE_EXPIRED: ("expired", "warn"),
    admin_pb2.KEY_STATE_REVOKED: ("revoked", "bad"),
    admin_pb2.KEY_STATE_SHADOWED: ("shadowed by the file", "warn"),
}
"""Words and colours of the states."""
OWNERS = {admin_pb2.OWNER_FILE: "the file", admin_pb2.OWNER_RUN_TIME: "run time"}
LIMITS = {
    "requests_per_minute": "Requests a minute",
    "tokens_per_minute": "Tokens a minute",
    "concurrent_requests": "Requests at once",
}
"""Limits that the form has."""


def rights(settings: admin_pb2.KeySettings) -> Iterator[tuple[str, str]]:
    """Yields what a key may do: name and text."""
    yield "Role", ROLE_NAMES.get(settings.role, "")
    yield "Models", ", ".join(settings.models) or "all"
    if settings.HasField("remote_classes"):
        yield "Remotes", ", ".join(settings.remote_classes.names) or "none"
    for field, value in settings.limits.ListFields():
        yield LIMITS.get(field.name, field.name.replace("_", " ").capitalize()), f"{value:,}"
    if settings.max_priority:
        yield "Highest priority", str(settings.max_priority)


def settings_of(form: Mapping[str, str]) -> admin_pb2.KeySettings:
    """Reads the settings of a new key from a form. Raises Problem."""
    role = ROLES.get(form.get("role", "caller"))
    if role is None:
        raise Problem(400, "This is no key", f"Give a role: {', '.join(ROLES)}.")
    settings = admin_pb2.KeySettings(
        role=role, models=form.get("models", "").replace(",", " ").split()
    )
    for name, words in LIMITS.items():
        if text := form.get(name, "").strip():
            if not (text.isdecimal() and text.isascii() and len(text) < 13):
                raise Problem(400, "This is no key", f"{words}: give a whole number, or nothing.")
            setattr(settings.limits, name, int(text))
    if form.get("no_remotes"):
        settings.remote_classes.SetInParent()
    if (expires := expiry_of(form)) is not None:
        settings.expires_at.FromDatetime(expires)
    return settings


def expiry_of(form: Mapping[str, str]) -> datetime | None:
    """Returns when a key expires: the beginning of a day, UTC; None: never. Raises Problem."""
    text = form.get("expires", "").strip()
    if not text:
        return None
    try:
        return datetime.strptime(text[:20], "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise Problem(400, "This is no day", "Give a day such as 2027-01-31.") from None
