"""Words by which servers say that they have no room, where an error has no HTTP status."""

from __future__ import annotations

import re

_BUSY = re.compile(
    r"throttl|overload|too_?many_?requests|rate_?limit|resource_?exhausted|server_?busy|capacity"
    r"|queue_?full|service_?unavailable|insufficient_?system_?resource",
    re.I,
)


def is_busy_word(word: object) -> bool:
    """Whether the code or type of an error says so."""
    return isinstance(word, str) and _BUSY.search(word[:200]) is not None
