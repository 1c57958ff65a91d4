"""JSON schemas of the arguments of tools, in the form that servers insist on."""

from __future__ import annotations

import msgspec

NO_ARGUMENTS = '{"type": "object", "properties": {}}'
"""Schema of a tool that gives none."""


def object_schema(schema: str) -> str:
    """Schema of arguments with the type and properties that servers insist on. Arguments are always
    an object, so that the schema means the same. `schema`: a JSON object."""
    fields = msgspec.json.decode(schema, type=dict[str, msgspec.Raw])
    if bytes(fields.get("type", b"")) == b'"object"' and "properties" in fields:
        return schema
    added = {"type": msgspec.Raw(b'"object"')}
    if "properties" not in fields:
        added["properties"] = msgspec.Raw(b"{}")
    return msgspec.json.encode(added | fields | {"type": added["type"]}).decode()
