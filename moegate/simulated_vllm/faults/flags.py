"""`--fault KIND[:key=value,...]` of `moegate simulate-vllm`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from moegate.simulated_vllm.faults.kinds import COMMON_KEYS, OWN_KEYS, Fault, FaultKind, Faults

_FLOATS = ("probability", "after_seconds", "seconds")


def parse_faults(values: Sequence[str]) -> Faults:
    """Parses the values of the flag, in order. Raises ValueError with the flag, value and
    remedy."""
    return Faults(tuple(parse_fault(value) for value in values))


def parse_fault(value: str) -> Fault:
    """Parses one value of the flag. Raises ValueError with the flag, value and remedy."""
    try:
        return _parsed(value)
    except ValueError as error:
        raise ValueError(f"--fault {value}: {error}") from None


def _parsed(value: str) -> Fault:
    name, colon, rest = value.partition(":")
    if name not in list(FaultKind):
        raise ValueError(_unknown("fault", name, list(FaultKind)))
    kind = FaultKind(name)
    if colon and not rest:
        raise ValueError("nothing follows the colon: leave it out or give key=value")
    given: dict[str, Any] = {}
    for pair in rest.split(",") if rest else ():
        key, equals, text = pair.partition("=")
        if not equals or not text:
            raise ValueError(f'"{pair}" is not key=value')
        keys = [*OWN_KEYS[kind], *COMMON_KEYS]
        if key not in keys:
            raise ValueError(_unknown(f"key of {kind}", key, keys))
        if key in given:
            raise ValueError(f"{key} is given twice: keep one")
        given[key] = _number(key, text)
    return Fault(kind=kind, **given)


def _number(key: str, text: str) -> float:
    try:
        return float(text) if key in _FLOATS else int(text)
    except ValueError:
        wanted = "a number" if key in _FLOATS else "a whole number"
        raise ValueError(f'{key} must be {wanted}, not "{text}"') from None


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    remedy = f'did you mean "{close[0]}"? ' if close else ""
    return f'"{name}" is no {what}: {remedy}there are {", ".join(known)}'
