"""Reading of JSON that strict decoding refuses: what is not understood costs its field.

It is slower than msgspec's decoding by a factor of ten and runs only where that fails. Beyond JSON
it reads NaN and infinities (as unknown), halves of characters (see `half_characters.py`) and bytes
that are not UTF-8 (as U+FFFD).
"""

from __future__ import annotations

import functools
import json
import math
import re
import types
import typing
from typing import Any, TypeVar

import msgspec
from msgspec import structs

MAX_DIGITS = 4000
"""Longest integer that is read; Python refuses longer ones from 4,300 digits."""
MAX_COUNT_DIGITS = 15
MAX_HEARTBEAT_BYTES = 40
S = TypeVar("S", bound=msgspec.Struct)


class NotJson(ValueError):
    """The bytes are no JSON, or are nested too deeply."""


def read_json(payload: bytes) -> Any:
    """The value. Raises NotJson."""
    try:
        return _decoder.decode(payload.decode("utf-8", "replace").strip("\ufeff \t\r\n"))
    except (ValueError, RecursionError) as error:
        raise NotJson("not JSON") from error


_HEARTBEAT = re.compile(
    rb"""[\s:"]*(ping|pong|keep[-_ ]?alive|heartbeat|null|true|false|\[\s*\]|[0-9.]*)[\s"]*""", re.I
)


def is_heartbeat(payload: bytes) -> bool:
    """Whether an event only keeps the connection alive, and can hold no output: a word for it, or
    JSON without any content."""
    return len(payload) <= MAX_HEARTBEAT_BYTES and _HEARTBEAT.fullmatch(payload) is not None


def _number(text: str) -> int | None:
    return int(text) if len(text) <= MAX_DIGITS else None


def _fraction(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _unknown(text: str) -> None:
    """NaN and infinities are no numbers."""


_decoder = json.JSONDecoder(parse_int=_number, parse_float=_fraction, parse_constant=_unknown)


class Fitting:
    """Fits read values to structs. `lost`: names of fields that were left out."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    def struct(self, kind: type[S], value: object) -> S | None:
        """A struct with the fields that fit; None: the value is no object."""
        if not isinstance(value, dict):
            return None
        found: dict[str, Any] = {}
        for name, encoded, wanted in _fields(kind):
            given = value.get(encoded)
            if given is None:
                continue
            fitted = self._fit(wanted, given, name)
            if fitted is None:
                self.lost.append(encoded)
            else:
                found[name] = fitted
        return kind(**found)

    def _fit(self, wanted: Any, value: object, name: str) -> Any:
        """The value as the type; None: it does not fit."""
        origin = typing.get_origin(wanted)
        if origin in (types.UnionType, typing.Union):
            members = typing.get_args(wanted)
            exact = next((m for m in members if _is(m, value)), None)
            ordered = members if exact is None else (exact, *members)
            return next((f for m in ordered if (f := self._fit(m, value, name)) is not None), None)
        if origin is list:
            (item,) = typing.get_args(wanted)
            # A server may send a single object where a list of them is usual.
            values = value if isinstance(value, list) else [value]
            if values is not value and not isinstance(value, dict):
                return None
            fitted = [self._fit(item, v, name) for v in values]
            # Positions count where a list may hold null, as in parallel lists.
            keeps = types.NoneType in typing.get_args(item)
            return fitted if keeps else [v for v in fitted if v is not None]
        if origin is dict:
            _, item = typing.get_args(wanted)
            if not isinstance(value, dict):
                return None
            return {key: self._fit(item, v, name) for key, v in value.items()}
        if wanted is Any:
            return value
        if wanted is str:
            return _text(value, name)
        if wanted is int:
            return count(value)
        if wanted is float:
            return _finite(value)
        if wanted is msgspec.Raw:
            return msgspec.Raw(json_text(value).encode("utf-8", "replace"))
        if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
            # A list of one where a single object is usual.
            only = value[0] if isinstance(value, list) and len(value) == 1 else value
            return self.struct(wanted, only)
        return None


_JSON_TEXTS = frozenset({"arguments", "partial_json"})
"""Fields of JSON text that some servers send as the value itself."""
_WORDS = frozenset({"finish_reason", "stop_reason"})
"""Words that SGLang writes as an object with a type, and others as a number or in a list."""


def count(value: object) -> int | None:
    """A whole number of 0 or more, also written as 5.0 or "5"; None: it is none."""
    match value:
        case bool():
            return None
        case int():
            return value if value >= 0 else None
        case float():
            return int(value) if math.isfinite(value) and 0 <= value < 1e15 else None
        case str() if value.strip().isascii() and len(value) <= MAX_COUNT_DIGITS:
            try:
                return count(float(value))
            except ValueError:
                return None
    return None


def json_text(value: object) -> str:
    """The value as JSON text, which halves of characters leave as escapes."""
    try:
        return json.dumps(value, ensure_ascii=not _is_clean(value))
    except (ValueError, RecursionError):
        return ""


def _is_clean(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _text(value: object, name: str) -> str | None:
    match value:
        case str():
            return value
        case dict() | list() if name in _JSON_TEXTS:
            return json_text(value)
        case {"type": str(word)} | [str(word)] if name in _WORDS:
            return word
        case True | int() | float() if name in _WORDS and value:
            return str(value)
    return None


def _finite(value: object) -> float | None:
    match value:
        case bool():
            return None
        case int() | float():
            try:
                number = float(value)
            except OverflowError:
                return None
            return number if math.isfinite(number) else None
    return None


def _is(wanted: Any, value: object) -> bool:
    """Whether a value is of a type of a union, without a conversion."""
    origin = typing.get_origin(wanted)
    kind = origin or wanted
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return isinstance(value, dict)
    return isinstance(kind, type) and type(value) is kind


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple(
        (field.name, field.encode_name, _without_none(hints[field.name]))
        for field in structs.fields(kind)
    )


def _without_none(wanted: Any) -> Any:
    members = [m for m in typing.get_args(wanted) if m is not types.NoneType]
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):
        return members[0] if len(members) == 1 else typing.Union[tuple(members)]  # noqa: UP007
    return wanted
