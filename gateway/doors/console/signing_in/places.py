"""Pages that may follow after signing in: only those of the console."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""One slash, and visible ASCII without a backslash: browsers drop tabs and line breaks from
addresses, and take a backslash for a slash."""
MAX_CHARACTERS = 1024


def following(fields: Mapping[str, str]) -> str:
    """Returns the page that the field `then` names; else the first page."""
    then = fields.get("then", "/")
    return then if len(then) <= MAX_CHARACTERS and _PATH.fullmatch(then) else "/"
