"""The JSON Schema of the configuration file, for editors and CI.

The docstring below each field of the structs is its description in the schema, so that the file is
documented in one place.
"""

from __future__ import annotations

import ast
import functools
import inspect
from types import ModuleType
from typing import Any

import msgspec

from gateway.config import batch as config_batch
from gateway.config import discovery as config_discovery
from gateway.config import engines as config_engines
from gateway.config import gateway as config
from gateway.config import ledger as config_ledger
from gateway.config import limits as config_limits
from gateway.config import price_rows
from gateway.config import prices as config_prices
from gateway.config import prior as config_prior
from gateway.config import remote as config_remote
from gateway.config import server as config_server
from gateway.config import telemetry as config_telemetry
from gateway.config import values as config_values
from scheduler import contract as types
from scheduler.budgets import budget_window

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `GatewayConfig`."""
    schema = msgspec.json.schema(config.GatewayConfig)
    docs = field_docs()
    for name, definition in schema["$defs"].items():
        for field, described in definition.get("properties", {}).items():
            format_note = described.get("description")
            text = docs[name][field]
            described["description"] = f"{text} {format_note}" if format_note else text
    return {"$schema": DIALECT, "title": "moegate configuration", **schema}


@functools.cache
def field_docs() -> dict[str, dict[str, str]]:
    """Docstring of every field, by class and field. Units are those in the field's name."""
    return {
        **_docs(types),
        **_docs(price_rows),
        **_docs(budget_window),
        **_docs(config),
        **_docs(config_engines),
        **_docs(config_discovery),
        **_docs(config_batch),
        **_docs(config_ledger),
        **_docs(config_prices),
        **_docs(config_prior),
        **_docs(config_telemetry),
        **_docs(config_remote),
        **_docs(config_values),
        **_docs(config_limits),
        **_docs(config_server),
    }


def field_doc(cls: type, field: str) -> str:
    """Docstring of one field, its own or inherited."""
    docs = field_docs()
    owners = (docs.get(base.__name__, {}) for base in cls.__mro__)
    return next(fields[field] for fields in owners if field in fields)


def _docs(module: ModuleType) -> dict[str, dict[str, str]]:
    """A string below a field is no docstring to Python: it is only in the source."""
    tree = ast.parse(inspect.getsource(module))
    return {node.name: _class_docs(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _class_docs(node: ast.ClassDef) -> dict[str, str]:
    docs: dict[str, str] = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(doc))),
            ):
                docs[name] = " ".join(doc.split())
    return docs
