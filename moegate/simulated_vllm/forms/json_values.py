"""A small value that fits a JSON schema."""

from __future__ import annotations

import math
from typing import Any

from moegate.simulated_vllm.forms.regexes import Unsupported, repeated, shortest_match

_DEPTH = 64
"""Deepest nesting of a value; a schema that refers to itself without end is refused."""


def value_of(schema: Any) -> Any:
    """Returns the value. Raises Unsupported."""
    return _value(schema, schema, 0)


def _value(schema: Any, root: Any, depth: int) -> Any:
    if depth > _DEPTH:
        raise Unsupported("the schema never ends")
    if not isinstance(schema, dict):
        return {}  # true: any value
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    if isinstance(reference := schema.get("$ref"), str):
        return _value(_referred(reference, root), root, depth + 1)
    for name in ("anyOf", "oneOf"):
        if schema.get(name):
            return _value(schema[name][-1], root, depth + 1)  # the last one is null or ends it
    if schema.get("allOf"):
        return _value(schema["allOf"][0], root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "")
    if isinstance(kind, list):
        kind = kind[0] if kind else ""
    match kind:
        case "object" | "":
            required = schema.get("required", ())
            properties = schema.get("properties") or {}
            return {name: _value(properties.get(name), root, depth + 1) for name in required}
        case "array":
            items = schema.get("items", {})
            least = len(repeated("x", int(schema.get("minItems", 0))))
            return [_value(items, root, depth + 1)] * least
        case "string":
            text = "text"
            if isinstance(pattern := schema.get("pattern"), str):
                text = shortest_match(pattern)
            else:
                text = text[: schema.get("maxLength", len(text))]
                text += repeated("x", max(0, schema.get("minLength", 0) - len(text)))
            return text
        case "integer" | "number":
            return _number(schema, kind)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            raise Unsupported(f"no type {kind}")


def _number(schema: dict[str, Any], kind: str) -> float:
    """The first candidate within the bounds."""
    least, above = schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf)
    most, below = schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf)
    candidates = [0, least, most, above + 1, below - 1, (max(least, above) + min(most, below)) / 2]
    for value in candidates:
        if not math.isfinite(value) or (kind == "integer" and value != int(value)):
            continue
        if least <= value <= most and above < value < below:
            return int(value) if kind == "integer" else value
    raise Unsupported("no number is within the bounds")


def _referred(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        raise Unsupported(f"not simulated: {reference}")
    found = root
    for name in reference[1:].strip("/").split("/"):
        if name:
            found = found.get(name) if isinstance(found, dict) else None
    if found is None:
        raise Unsupported(f"nothing at {reference}")
    return found
