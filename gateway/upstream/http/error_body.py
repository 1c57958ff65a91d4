"""The error in a body, whatever its shape: text, and words that say what kind it is.

Every server has a shape of its own, and proxies nest them: an object or a text below `error`, a
list of either, FastAPI's `detail`, `base_resp` of MiniMax under status 200, JSON inside a text, a
page of HTML. All are read by one bounded walk. What is not understood costs that field alone.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

import msgspec
from msgspec import structs

from gateway.upstream.half_characters import whole
from gateway.upstream.lenient import NotJson, read_json

MAX_BODY_BYTES = 64 * 1024
MAX_TEXT_CHARS = 2000
MAX_WORD_CHARS = 100
_MAX_DEPTH = 6
_MAX_ITEMS = 10
_INNER = ("error", "errors", "detail", "base_resp")
_FURTHER = (*_INNER, "metadata", "raw", "response", "body")
"""Fields that hold an error inside an error."""
_TEXTS = (
    *("message", "msg", "error_message", "error_msg", "errorMessage", "status_msg"),
    *("Message", "error_description", "description"),
)
_WORDS = ("code", "type", "status", "reason", "error_code", "error_type", "name", "__type", "param")
NO_ERROR = frozenset({"0", "200", "ok", "success"})
_EVENT_SIGNS = ("data:", "event:")
_TITLE = re.compile(r"<title[^>]{0,200}>(.{0,300}?)</title>", re.I | re.S)
_ECHOES = (
    # vLLM's schema check ends each line with "'input': <what was sent>}".
    re.compile(r", 'input': .*"),
    # Servers in Rust quote what serde could not read, and values that a check refused.
    re.compile(r'(?<=: string) "(?:.*"(?=, expected)|.*)', re.S),
    re.compile(r"(?<=unknown variant) `(?:.*`(?=, expected)|.*)", re.S),
    re.compile(r'(?<="value":) String\("(?:.*"\)|.*)', re.S),
)
_PLACE = re.compile(
    r"(?:Failed to deserialize the JSON body into the target type: )?([A-Za-z_][\w.\[\]]*):"
    r" (?:Validation error|invalid (?:type|value|length)|missing field|unknown variant)"
)
"""The field that such a server names in the text alone."""


class ErrorReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An error as it was told. `message`: without what is known to echo the request; empty: none.
    `words`: codes, types and reasons in lower case; those of MiniMax begin with "base_resp:".
    `status`: an HTTP status that the body names; None: none."""

    message: str = ""
    words: frozenset[str] = frozenset()
    param: str = ""
    status: int | None = None


def read_error(body: bytes) -> ErrorReport | None:
    """The error in a JSON body; None: it holds none. Halves of characters, and bytes that are not
    UTF-8, become U+FFFD."""
    body = body[: 2 * MAX_BODY_BYTES]
    try:
        return error_in(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        found = error_in(read_json(body))
    except NotJson:
        return None
    if found is None:
        return None
    message = whole(found.message)
    if not message.strip("\ufffd "):
        message = ""  # nothing of it can be read
    return structs.replace(found, message=message, param=whole(found.param))


def read_any_error(body: bytes) -> ErrorReport:
    """The error in the body of a refusal: JSON, the title of a page, or plain text."""
    found = read_error(body)
    if found is not None:
        return found
    try:
        text = body[:MAX_BODY_BYTES].decode().strip()
    except UnicodeDecodeError:
        return ErrorReport()
    if text.startswith("<"):
        title = _TITLE.search(text[:8192])
        return ErrorReport(message=html.unescape(title[1]).strip() if title else "")
    # A long text is a page, a log or an echo, and no message.
    is_text = len(text) <= MAX_TEXT_CHARS and text[:1] not in ("{", "[") and text != "null"
    is_text = is_text and not text.startswith(_EVENT_SIGNS)  # a stream, which quotes output
    printable = is_text and all(c.isprintable() or c.isspace() for c in text)
    return ErrorReport(message=text if printable else "")


def error_in(value: object) -> ErrorReport | None:
    """The error in a JSON value; None: it holds none."""
    return _read(value, 0)


def _read(value: object, depth: int) -> ErrorReport | None:
    if depth > _MAX_DEPTH:
        return None
    match value:
        case str():
            return _read_text(value, depth)
        case list():
            return _read_list(value[:_MAX_ITEMS], depth)
        case dict():
            return _read_object(value, depth)
        case _:
            return None


def _read_text(value: str, depth: int) -> ErrorReport | None:
    text = value[:MAX_BODY_BYTES].strip()
    if text[:1] in ("{", "["):
        try:
            return _read(msgspec.json.decode(text), depth + 1)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            pass
    text = text[:MAX_TEXT_CHARS]
    for echo in _ECHOES:
        text = echo.sub("", text)
    place = _PLACE.match(text)
    return ErrorReport(message=text, param=place[1] if place else "") if text else None


def _read_list(items: list[object], depth: int) -> ErrorReport | None:
    """FastAPI's list of faults, each with its place; else the first error."""
    faults, places = list[str](), list[str]()
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("msg"), str):
            place = item.get("loc")
            parts = place if isinstance(place, list) else [place] if place is not None else []
            places.append(".".join(str(part)[:MAX_WORD_CHARS] for part in parts[:_MAX_ITEMS]))
            text = item["msg"][:MAX_TEXT_CHARS]
            faults.append(f"{places[-1]}: {text}" if places[-1] else text)
    if faults:
        param = places[0] if len(places) == 1 else ""
        return ErrorReport(message="; ".join(faults), param=param)
    return next((found for item in items if (found := _read(item, depth + 1))), None)


def _read_object(fields: Mapping[str, object], depth: int) -> ErrorReport | None:
    found = [
        inner
        for name in (_FURTHER if depth else _INNER)
        if fields.get(name) and (inner := _read(_named(name, fields[name]), depth + 1)) is not None
    ]
    text = next((t for name in _TEXTS if isinstance(t := fields.get(name), str) and t.strip()), "")
    own = _read_text(text, depth) if text else None
    words = frozenset(filter(None, map(_word, (fields.get(name) for name in _WORDS))))
    if own is None and not found and not (depth and words):
        return None
    words |= _reasons(fields.get("details"))
    for report in found:
        words |= report.words
    statuses = [
        number
        for name in ("code", "status", "status_code", "http_code")
        if (number := _status(fields.get(name))) is not None
    ]
    param = fields.get("param")
    param = param if isinstance(param, str) else ""
    parts = [own.message] if own is not None and own.message else []
    parts += [r.message for r in found if r.message and all(r.message not in p for p in parts)]
    return ErrorReport(
        message=": ".join(parts)[:MAX_TEXT_CHARS],
        words=words | (own.words if own else frozenset()),
        param=param
        or (own.param if own else "")
        or next((report.param for report in found if report.param), ""),
        status=next(iter(statuses), None)
        or next((report.status for report in found if report.status), None),
    )


def _named(name: str, value: object) -> object:
    """MiniMax's codes, made distinct: others give the same numbers other meanings."""
    if name != "base_resp" or not isinstance(value, dict):
        return value
    code = value.get("status_code")
    if code in (0, "0", None):
        return None
    return {"code": f"base_resp:{code}", "message": value.get("status_msg")}


def _reasons(details: object) -> frozenset[str]:
    """Reasons in the details of Google's and Anthropic's errors."""
    entries = details if isinstance(details, list) else [details]
    words = (
        _word(entry.get(name))
        for entry in entries[:_MAX_ITEMS]
        if isinstance(entry, dict)
        for name in ("reason", "error_code")
    )
    return frozenset(filter(None, words))


def _word(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    word = str(value)[:MAX_WORD_CHARS].strip().lower()
    return "" if word in NO_ERROR else word


def _status(value: object) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isdecimal():
        value = int(value)
    return value if type(value) is int and 400 <= value <= 599 else None
