"""Text whose characters were cut in two: one half at the end of a piece, the other in the next.

JSON writes a character beyond the first 65,536 as two escapes (a surrogate pair). Servers that cut
text by UTF-16 units send each half in an event of its own.
"""

from __future__ import annotations

_HIGH_FIRST, _HIGH_LAST = "\ud800", "\udbff"


class HalfCharacters:
    """Keeps the last half character of each named text until its other half comes."""

    __slots__ = ("_halves",)

    def __init__(self) -> None:
        self._halves: dict[str, str] = {}

    def __bool__(self) -> bool:
        """Whether a half waits."""
        return bool(self._halves)

    def joined(self, name: str, text: str) -> str:
        """The text that is complete now. A half without its other half becomes U+FFFD."""
        text = self._halves.pop(name, "") + text
        if text and _HIGH_FIRST <= text[-1] <= _HIGH_LAST:
            self._halves[name] = text[-1]
            text = text[:-1]
        return whole(text)

    def rest(self, name: str) -> str:
        """What is left of a text at its end: U+FFFD for a half, else nothing."""
        return whole(self._halves.pop(name, ""))


def whole(text: str) -> str:
    """The text with pairs of halves joined and single halves replaced by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
