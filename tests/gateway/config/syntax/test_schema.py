"""The JSON schema: complete, documented, closed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.config.syntax.schema import DIALECT, field_docs, json_schema


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from nodes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from nodes(value)


def test_every_field_is_described_by_its_docstring() -> None:
    schema = json_schema()
    assert schema["$schema"] == DIALECT
    for name, definition in schema["$defs"].items():
        assert definition["description"], name
        for field, described in definition.get("properties", {}).items():
            assert described["description"].startswith(field_docs()[name][field]), (name, field)
            assert len(described["description"]) > 5, (name, field)


def test_docstrings_and_notes_on_form_are_joined() -> None:
    replica = json_schema()["$defs"]["ReplicaConfig"]
    assert replica["properties"]["name"]["description"] == (
        "Name, unique in its pool. "
        "Letters, digits, dots, underscores and hyphens, at most 63 characters."
    )
    file = json_schema()["$defs"]["SecretConfig"]["properties"]["file"]["description"]
    assert file.endswith("a final newline is not part of the secret.")


def test_unknown_fields_are_refused_everywhere_and_references_resolve() -> None:
    schema = json_schema()
    objects = [d for d in schema["$defs"].values() if d.get("type") == "object"]
    assert len(objects) > 10
    assert all(definition["additionalProperties"] is False for definition in objects)
    for node in nodes(schema):
        if isinstance(node.get("$ref"), str):
            assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]


def test_required_fields_and_choices() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["ReplicaConfig"]["required"] == ["name", "url"]
    assert set(definitions["KeyRole"]["enum"]) == {"caller", "tenant_admin", "operator"}
    assert definitions["GpuConfig"]["properties"]["count"]["minimum"] == 1
