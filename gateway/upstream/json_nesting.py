"""Whether JSON text that comes in pieces is closed, without looking at any piece twice.

Text within strings may hold any brackets. Nothing else of JSON is checked: what is closed may still
be no JSON.
"""

from __future__ import annotations

import re

_IN_STRING = re.compile(r'[\\"]')
_OUTSIDE = re.compile(r'["{}\[\]]')


class JsonNesting:
    """Brackets of one text. `feed` takes its pieces in order."""

    __slots__ = ("_broken", "_closed", "_depth", "_escaped", "_in_string")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False
        self._closed = self._broken = False

    @property
    def is_closed(self) -> bool:
        """Whether the text is one object or list, with its last bracket."""
        return self._closed and not self._broken

    def feed(self, text: str) -> None:
        """The next piece."""
        if self._closed and text.strip():
            self._broken = True  # no text follows one that is closed
        if self._broken or not text:
            return
        at = 1 if self._escaped else 0
        self._escaped = False
        while found := (_IN_STRING if self._in_string else _OUTSIDE).search(text, at):
            at = found.end()
            mark = found[0]
            if mark == "\\":
                self._escaped = at == len(text)
                at += 1
            elif mark == '"':
                self._in_string = not self._in_string
            elif mark in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    self._closed = self._depth == 0
                    self._broken = not self._closed or bool(text[at:].strip())
                    return
