"""How long a server asks to wait, in every form in which servers say it. Pure.

In this order: what is said of this refusal (Retry-After and its relatives, fields and texts of the
body), then when a limit is reset. Limits are told with every answer, so that a reset counts only
on a refusal for load, and only that of a limit which is used up, where this is told.
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import msgspec

from gateway.domain.failures import MAX_RETRY_AFTER_S

BUSY_STATUSES = frozenset({429, 503, 529})
MAX_TEXT_CHARS = 4096
"""Most characters of a body that are searched for a wait."""
_MAX_NODES = 500
_MAX_VALUE_CHARS = 64
_EPOCH_S = 1e9
"""A larger number is a time since 1970: as a wait it would be 30 years."""
_EPOCH_MS = 1e12
_UNIT_S = {
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "µs", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanoseconds"), 1e-9),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_UNITS = "|".join(sorted(filter(None, _UNIT_S), key=len, reverse=True))
_ONE = rf"\d+(?:\.\d+)?\s*(?:{_UNITS})"
_PIECE = re.compile(rf"(\d+(?:\.\d+)?)\s*({_UNITS})", re.I)
_DURATION = re.compile(rf"(?:\s*{_ONE})+\s*", re.I)
_DATE = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
_TEXT = re.compile(
    r"\b(?:try(?:ing)?|retry(?:ing)?|wait|available)\b(?: again| your request| another)*"
    r"(?:(?P<in>\s+(?:in|after|for|at))?\s*(?:about|around|approximately|at least|~)?\s*)"
    rf"(?P<wait>{_DATE}|{_ONE}(?![a-z])(?:\s*{_ONE}(?![a-z]))*|(?(in)\d+(?:\.\d+)?(?![-:/\w]|\.\d)))",
    re.I,
)
_BODY_FIELDS = {
    **dict.fromkeys(("retrydelay", "retryafter", "retryafters", "retryafterseconds"), 1.0),
    **dict.fromkeys(("retryafterms", "retryaftermilliseconds", "retrydelayms"), 1e-3),
    **dict.fromkeys(("retryin", "waitseconds", "retryinseconds"), 1.0),
}
"""Names of fields in lower case, without `_` and `-`, and the unit of their numbers."""
_MS_HEADERS = ("retry-after-ms", "x-ms-retry-after-ms", "x-retry-after-ms")
_WAIT_HEADERS = ("Retry-After", "x-retry-after")
_IETF = re.compile(r"\b(?:reset|t)=(\d{1,9})\b")
"""In the RateLimit header of the IETF drafts."""


def retry_after_s(
    status: int, headers: Mapping[str, str], body: bytes, now_unix_s: float
) -> float | None:
    """Seconds from 0 to MAX_RETRY_AFTER_S until a retry; None: not told.

    `headers`: their names are compared without case if the mapping does so. `body`: of the error.
    """
    for name in _MS_HEADERS:
        if (wait_s := wait(headers.get(name), now_unix_s, unit_s=1e-3)) is not None:
            return wait_s
    for name in _WAIT_HEADERS:
        if (wait_s := wait(headers.get(name), now_unix_s)) is not None:
            return wait_s
    if status not in BUSY_STATUSES:
        return None
    wait_s = body_wait(body, now_unix_s)
    return wait_s if wait_s is not None else _reset(headers, now_unix_s)


def wait(value: object, now_unix_s: float, *, unit_s: float = 1.0) -> float | None:
    """A wait in seconds, from 0 to MAX_RETRY_AFTER_S: a number (of `unit_s`), a duration such as
    6m0s or PT20S, a time since 1970, a date of HTTP or of ISO 8601. None: none of these."""
    seconds = _seconds(value, now_unix_s, unit_s)
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def body_wait(body: bytes, now_unix_s: float) -> float | None:
    """The wait that the body of an error names: a field of its JSON, or words of its text."""
    text = body[: 16 * MAX_TEXT_CHARS].decode(errors="replace")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    for name, field in _fields(value):
        unit_s = _BODY_FIELDS.get(name.lower().replace("_", "").replace("-", ""))
        if unit_s is not None and (wait_s := wait(field, now_unix_s, unit_s=unit_s)) is not None:
            return wait_s
    found = _TEXT.search(text[:MAX_TEXT_CHARS])
    return None if found is None else wait(found["wait"], now_unix_s)


def _seconds(value: object, now_unix_s: float, unit_s: float) -> float | None:
    if isinstance(value, Mapping):  # a Duration of protobuf
        parts = [value.get(name, 0) for name in ("seconds", "nanos")]
        numbers = [_number(part) for part in parts]
        if not value or None in numbers:
            return None
        return (numbers[0] or 0.0) + (numbers[1] or 0.0) * 1e-9
    number = _number(value)
    if number is not None:
        if unit_s == 1.0 and number >= _EPOCH_S:
            at_s = number / 1000 if number >= _EPOCH_MS else number
            return at_s - now_unix_s if at_s < 10 * _EPOCH_S else math.inf
        return number * unit_s
    if not isinstance(value, str) or len(value) > _MAX_VALUE_CHARS:
        return None
    text = value.strip().strip("\"'")
    iso = text.upper()
    duration = iso[2:] if iso.startswith("PT") else text
    if _DURATION.fullmatch(duration):
        return sum(float(size) * _UNIT_S[unit.lower()] for size, unit in _PIECE.findall(duration))
    at = _date(text)
    return None if at is None else at.timestamp() - now_unix_s


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _date(text: str) -> datetime | None:
    for parse in (email.utils.parsedate_to_datetime, datetime.fromisoformat):
        try:
            at = parse(text)
            at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
            at.timestamp()
        except (ValueError, OverflowError):
            continue
        return at
    return None


def _fields(value: object) -> Iterator[tuple[str, object]]:
    """Names and values of all fields, the outer ones first; text that holds JSON is not opened."""
    left, nodes = [value], 0
    while left and nodes < _MAX_NODES:
        nodes += 1
        node = left.pop(0)
        if isinstance(node, dict):
            yield from node.items()
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node[:_MAX_NODES])


def _reset(headers: Mapping[str, str], now_unix_s: float) -> float | None:
    """The wait until a limit is reset: the longest of those that are used up, else the shortest of
    those of which this is not told, else the shortest."""
    used_up, unknown, left = list[float](), list[float](), list[float]()
    for name, value in headers.items():
        lower = name.lower()
        if lower == "ratelimit" and (found := _IETF.search(value)) is not None:
            unknown.append(min(float(found[1]), MAX_RETRY_AFTER_S))
        if "ratelimit" not in lower.replace("-", "") or "reset" not in lower:
            continue
        wait_s = wait(value, now_unix_s)
        if wait_s is None:
            continue
        remaining = _number(headers.get(lower.replace("reset", "remaining")))
        if remaining is None:
            unknown.append(wait_s)
        else:
            (used_up if remaining <= 0 else left).append(wait_s)
    return max(used_up) if used_up else min(unknown or left, default=None)
