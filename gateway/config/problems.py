"""Problems of a configuration file, and how they are shown.

A `Problem` names the path, the value found, what is wrong and how to mend it; `ConfigError` holds
all that were found. Values come from `shown`, which never gives a secret or a hash in full.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

SHOWN_PROBLEMS = 50
"""Most problems of a file that its error tells."""
SHOWN_CHARACTERS = 80
"""Most characters of a value that are shown."""
_MASKED = re.compile(r"(^|\.)(api_key|sha256|secret|headers\[\d+\]\.value)(\.|\[|$)")
# A name in capitals in `env` is not a key that was pasted there by mistake.
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_USER = re.compile(r"://[^/\s]*@")
_QUERY = re.compile(r"(://[^?\s]*\?).*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem. `path`: such as pools[0].replicas[1].url (empty: the whole file); `value`: as
    shown to people, empty where the message has it; `line`: its line in the file, from 1."""

    path: str
    value: str
    message: str
    fix: str
    line: int | None = None

    def under(self, parent: str) -> Problem:
        """The same problem, its path below that of a parent."""
        return replace(self, path=field_path(parent, self.path) if self.path else parent)

    def __str__(self) -> str:
        where = self.path or "the file"
        line = f" (line {self.line})" if self.line is not None else ""
        found = f"\n    found: {self.value}" if self.value else ""
        return f"{where}{line}: {self.message}{found}\n    fix: {self.fix}"


class ConfigError(Exception):
    """The configuration cannot be used. `source`: name of the file; `problems`: at least one."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{source}: {count} problem{'s' if count > 1 else ''}"
        lines = [f"  {problem}" for problem in self.problems[:SHOWN_PROBLEMS]]
        if count > SHOWN_PROBLEMS:
            lines.append(f"  and {count - SHOWN_PROBLEMS} more: mend these first")
        super().__init__("\n".join([head, *lines]))


def field_path(parent: str, name: str) -> str:
    """Path of a field."""
    return f"{parent}.{name}" if parent else name


def shown(path: str, value: Any, written: str | None = None) -> str:
    """The value at `path` as shown to people. `written`: how a number or boolean is written in the
    file."""
    match value:
        case None:
            return "nothing"
        case dict():
            return f"a mapping of {len(value)} field{'' if len(value) == 1 else 's'}"
        case list() | tuple():
            return f"a list of {len(value)} item{'' if len(value) == 1 else 's'}"
        case str():
            text = value
        case _:
            text = written if written is not None else str(value)
    if _is_secret(path, text):
        # Enough to find it in the file, far too little to use it.
        head = text[:4] if len(text) >= 20 else ""
        return f"{head}... ({len(text)} characters, not shown)"
    text = _QUERY.sub(r"\1...", _USER.sub("://...@", text))
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[:SHOWN_CHARACTERS]}..."
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) else text


def problem(path: str, value: object, message: str, fix: str) -> Problem:
    """A problem of the value at `path`."""
    return Problem(path=path, value=shown(path, value), message=message, fix=fix)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, for "did you mean ...?"; None: none is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def described(value: Any) -> str:
    """The kind of a value whose content may be secret."""
    match value:
        case str():
            return f"a text of {len(value)} characters"
        case dict() | list() | None:
            return shown("", value)
        case bool():
            return "true or false"
        case _:
            return "a number"


def _is_secret(path: str, text: str) -> bool:
    if not _MASKED.search(path):
        return False
    if path.endswith(("api_key.file", "secret.file")):
        return False
    return not (path.endswith(("api_key.env", "secret.env")) and _ENV_NAME.fullmatch(text))


class ReloadRefused(Exception):
    """Another configuration was not put into force, the old one stays; the text says why."""
