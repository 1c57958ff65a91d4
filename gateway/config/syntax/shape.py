"""Fields, types and ranges of a configuration: every problem, not only the first.

msgspec decides what is valid and stops at the first error. So every field and list item is
converted on its own, and its error is worded in terms of the configuration file.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from gateway.config.gateway import GatewayConfig, UsdPerHour
from gateway.config.price_rows import CatalogFile, Usd
from gateway.config.problems import Problem, described, field_path, nearest, shown
from gateway.config.syntax.schema import field_doc
from gateway.config.syntax.yaml import Document, Written


def shape_problems(document: Document, cls: type[msgspec.Struct] = GatewayConfig) -> list[Problem]:
    """All problems of the shape of `cls`; none: `msgspec.convert` takes the data."""
    if mistaken := _mistaken(document.data, cls):
        return [mistaken]
    return list(_Shape(document.written).struct("", document.data, cls))


_FILES: Mapping[type[msgspec.Struct], tuple[str, str]] = {
    GatewayConfig: ("the configuration of a gateway", "moegate check FILE"),
    CatalogFile: ("a price catalog", "moegate prices check FILE"),
}


def _mistaken(data: Any, cls: type[msgspec.Struct]) -> Problem | None:
    """One problem for a file of the other kind, in place of one for each field."""
    if cls not in _FILES or not isinstance(data, dict) or set(data) & set(cls.__struct_fields__):
        return None
    for other, (name, command) in _FILES.items():
        found = [str(key) for key in data if key in other.__struct_fields__]
        if found:
            return Problem(
                path="",
                value=f"the fields {', '.join(found)}",
                message=f"this is {name}, not {_FILES[cls][0]}",
                fix=f"check it with `{command}`",
            )
    return None


class _Shape:
    def __init__(self, written: Mapping[str, Written]) -> None:
        self._written = written

    def struct(self, path: str, value: Any, cls: type[msgspec.Struct]) -> Iterator[Problem]:
        if not isinstance(value, dict):
            names = ", ".join(cls.__struct_fields__)
            fix = f"write its fields one a line: {names}"
            yield self._problem(path, value, "expected a mapping", fix)
            return
        fields = {field.name: field for field in msgspec.structs.fields(cls)}
        for name, item in value.items():
            if name in fields:
                yield from self.field(field_path(path, name), item, fields[name].type)
                continue
            guess = nearest(name, fields)
            rest = f"remove it, or use one of {', '.join(fields)}"
            yield Problem(
                path=field_path(path, name),
                value=described(item),
                message="unknown field",
                fix=f"did you mean {guess}?" if guess else rest,
            )
        for name, field in fields.items():
            if field.required and name not in value:
                doc = field_doc(cls, name)
                yield Problem(
                    path=field_path(path, name),
                    value="nothing",
                    message="missing field",
                    fix=f"add {name}: {_uncapitalised(doc).rstrip('.')}",
                    line=self._line(path),
                )

    def field(self, path: str, value: Any, hint: Any) -> Iterator[Problem]:
        optional, hint = _without_none(hint)
        info, note = _info(hint)
        match info:
            case _ if optional and value is None:
                pass
            case inspect.StructType():
                yield from self.struct(path, value, info.cls)
            case inspect.VarTupleType():
                yield from self._items(path, value, hint, info)
            case _:
                yield from self._leaf(path, value, hint, _expected(info, note))

    def _items(
        self, path: str, value: Any, hint: Any, info: inspect.VarTupleType
    ) -> Iterator[Problem]:
        if not isinstance(value, list):
            fix = "begin each item with '- ', or write [] for none"
            yield self._problem(path, value, "expected a list", fix)
            return
        if len(value) < (info.min_length or 0):
            yield self._problem(path, value, "the list is empty", "add an item")
        item_hint = _plain(hint).__args__[0]
        for i, item in enumerate(value):
            yield from self.field(f"{path}[{i}]", item, item_hint)

    def _leaf(self, path: str, value: Any, hint: Any, expected: str) -> Iterator[Problem]:
        if isinstance(value, str) and not value.isprintable():
            message = "the text has a line break or control character inside"
            yield self._problem(path, value, message, "remove it")
            return
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError:
            message, fix = self._leaf_words(path, value, hint, expected)
            yield self._problem(path, value, message, fix)

    def _leaf_words(self, path: str, value: Any, hint: Any, expected: str) -> tuple[str, str]:
        """The message and the fix of a value that was refused."""
        info, _ = _info(hint)
        written = self._written.get(path)
        raw = written.text if written and written.text is not None else str(value)
        message = f"expected {expected}"
        if value is None:
            return message, "give a value, or leave the field out if it is optional"
        if isinstance(value, dict | list):
            return message, "write one value after the colon"
        if isinstance(value, bool) and raw.lower() not in ("true", "false"):
            message += f"; YAML reads {raw} without quotes as {str(value).lower()}"
        if isinstance(info, inspect.StrType | inspect.EnumType) and not isinstance(value, str):
            if hint in (UsdPerHour, Usd):
                message += "; a number without quotes would be rounded as a float"
            quoted = f': "{raw}"' if shown(path, value, raw) == raw else ""  # never a secret
            return message, f"put quotes around it{quoted}"
        if isinstance(info, inspect.EnumType):
            names = [str(member.value) for member in info.cls]
            guess = nearest(value, names)
            return message, f"did you mean {guess}?" if guess else f"write {' or '.join(names)}"
        if isinstance(value, str) and not isinstance(info, inspect.StrType):
            in_quotes = written is not None and not written.plain
            return message, f"write {expected}{', without quotes' if in_quotes else ''}"
        return message, f"write {expected}"

    def _problem(self, path: str, value: Any, message: str, fix: str) -> Problem:
        written = self._written.get(path)
        found = shown(path, value, written.text if written else None)
        return Problem(path=path, value=found, message=message, fix=fix)

    def _line(self, path: str) -> int | None:
        return self._written[path].line if path in self._written else None


def _without_none(hint: Any) -> tuple[bool, Any]:
    """Whether None is allowed, and the type beside it."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return False, hint
    (inner,) = (item for item in typing.get_args(hint) if item is not types.NoneType)
    return True, inner


def _plain(hint: Any) -> Any:
    return hint.__origin__ if typing.get_origin(hint) is typing.Annotated else hint


@functools.cache
def _info(hint: Any) -> tuple[inspect.Type, str]:
    """The type as msgspec inspects it, and the note on its format."""
    info = inspect.type_info(hint)
    if isinstance(info, inspect.Metadata):
        return info.type, str((info.extra_json_schema or {}).get("description", ""))
    return info, ""


def _expected(info: inspect.Type, note: str) -> str:
    match info:
        case inspect.StrType():
            if note:
                return f"text: {_uncapitalised(note).rstrip('.')}"
            return f"text of 1 to {info.max_length} characters" if info.max_length else "text"
        case inspect.IntType():
            return f"a whole number{_bounds(info)}"
        case inspect.FloatType():
            return f"a number{_bounds(info)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.EnumType():
            return f"one of {', '.join(str(member.value) for member in info.cls)}"
    raise TypeError(f"no words for {info}: the configuration has a new kind of field")


def _uncapitalised(note: str) -> str:
    """For the middle of a sentence; SHA-256 and US stay."""
    return note[0].lower() + note[1:] if note[1:2].islower() else note


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    low = f" above {info.gt}" if info.gt is not None else ""
    low = f" from {info.ge}" if info.ge is not None else low
    return f"{low} to {info.le}" if info.le is not None else low
