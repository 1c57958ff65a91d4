"""JSON schemas of the arguments of tools, whatever the door."""

from __future__ import annotations

import msgspec

NO_ARGUMENTS = '{"type": "object", "properties": {}}'
"""Schema of a tool without arguments."""


class BadSchema(ValueError):
    """A schema that is no JSON object. Its text says why."""


def check_json_object(text: str | bytes | msgspec.Raw) -> None:
    """Raises BadSchema unless the text is a JSON object."""
    try:
        msgspec.json.decode(text, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSchema(f"not a JSON object: {error}") from None


def arguments_schema(schema: str | bytes | msgspec.Raw) -> str:
    """The schema with the type and properties that servers insist on. Arguments are always an
    object, so that the schema means the same. Raises BadSchema."""
    check_json_object(schema)
    fields = msgspec.json.decode(schema, type=dict[str, msgspec.Raw])
    if bytes(fields.get("type", b"")) == b'"object"' and "properties" in fields:
        return schema if isinstance(schema, str) else bytes(schema).decode()
    added = {"type": msgspec.Raw(b'"object"')}
    if "properties" not in fields:
        added["properties"] = msgspec.Raw(b"{}")
    return msgspec.json.encode(added | fields | {"type": added["type"]}).decode()
