"""Parts of a body that stay JSON text: schemas and arguments of tools, variables of templates."""

from __future__ import annotations

import msgspec

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.slices import finish
from gateway.doors.http.errors import invalid
from gateway.translation.argument_schema import NO_ARGUMENTS, object_schema
from gateway.translation.json_depth import deeper_than

_NULL = b"null"


def is_given(raw: msgspec.Raw) -> bool:
    """Whether a field has a value other than null."""
    return bytes(raw) not in (b"", _NULL)


def json_object_text(
    raw: msgspec.Raw, field: str, max_bytes: int, elements: ElementLimitsConfig
) -> str:
    """The text of a JSON object. Raises HttpError (INVALID) if it is none, or too large or deep."""
    text = bytes(raw)
    if not text.startswith(b"{"):
        raise invalid(field, "no JSON object: give one")
    if len(text) > max_bytes:
        raise invalid(field, f"{len(text)} bytes: at most {max_bytes}, limits.elements")
    if finish(deeper_than(text, elements.json_depth)):
        raise invalid(field, f"nested deeper than {elements.json_depth}: limits.elements")
    return text.decode()


def schema_text(raw: msgspec.Raw, field: str, elements: ElementLimitsConfig) -> str:
    """The text of a JSON schema. Raises HttpError (INVALID)."""
    return json_object_text(raw, field, elements.schema_bytes, elements)


def arguments_schema(raw: msgspec.Raw, field: str, elements: ElementLimitsConfig) -> str:
    """The schema of a tool's arguments; without one, that of none. Raises HttpError (INVALID)."""
    if not is_given(raw):
        return NO_ARGUMENTS
    return object_schema(schema_text(raw, field, elements))
