"""A shortest text that a regular expression matches."""

from __future__ import annotations

import re

_CLASSES = {"d": "0", "D": "a", "w": "a", "W": " ", "s": " ", "S": "a"}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}
_BOUNDS = re.compile(r"\{(\d*)(,?)(\d*)\}")
_GROUP_HEAD = re.compile(r"\(\?(:|P?<[A-Za-z_]\w*>)")
_NOT_IN_CLASS = " aA0_-.,!~"
"""Candidates for a class that excludes characters."""


MAX_CHARACTERS = 65_536
"""Longest text that is made."""


class Unsupported(ValueError):
    """The text is no regular expression or grammar, or has parts that are not simulated."""


def repeated(text: str, times: int) -> str:
    """Returns the text so many times. Raises Unsupported if that is too long."""
    if len(text) * times > MAX_CHARACTERS:
        raise Unsupported(f"not simulated: more than {MAX_CHARACTERS} characters")
    return text * times


def shortest_match(pattern: str) -> str:
    """Returns the text. Raises Unsupported."""
    reader = _Reader(pattern)
    text = reader.alternatives()
    if reader.position < len(pattern):
        raise Unsupported(f"unbalanced parenthesis at position {reader.position}")
    try:
        matches = re.fullmatch(pattern, text) is not None
    except re.error as error:
        raise Unsupported(str(error)) from error
    if not matches:
        raise Unsupported("not simulated: look-arounds, back-references, word boundaries")
    return text


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.position = 0

    def alternatives(self) -> str:
        """A shortest text up to the end of the group or of the pattern."""
        texts = [self._sequence()]
        while self._peek() == "|":
            self.position += 1
            texts.append(self._sequence())
        return min(texts, key=len)

    def _sequence(self) -> str:
        parts = []
        while self._peek() not in ("", "|", ")"):
            text = self._atom()
            parts.append(repeated(text, self._least()))
        return "".join(parts)

    def _atom(self) -> str:
        start = self.position
        char = self._take()
        match char:
            case "(":
                head = _GROUP_HEAD.match(self._pattern, start)
                self.position = head.end() if head else start + 1
                text = self.alternatives()
                if self._take() != ")":
                    raise Unsupported("missing ), unterminated subpattern")
                return text
            case "[":
                return self._class()
            case "\\":
                return self._escaped()
            case ".":
                return "a"
            case "^" | "$":
                return ""
            case "*" | "+" | "?":
                raise Unsupported(f"nothing to repeat at position {start}")
            case _:
                return char

    def _escaped(self) -> str:
        char = self._take()
        if not char:
            raise Unsupported("bad escape (end of pattern)")
        return _CLASSES.get(char) or _CONTROL.get(char) or char

    def _class(self) -> str:
        start = self.position - 1
        end = start + (3 if self._pattern[start + 1 : start + 2] == "^" else 2)
        while end < len(self._pattern) and self._pattern[end] != "]":
            end += 2 if self._pattern[end] == "\\" else 1
        self.position = end + 1
        source = self._pattern[start : end + 1]
        first = self._pattern[start + 1 : start + 2]
        candidates = _NOT_IN_CLASS
        if first == "\\":
            escaped = self._pattern[start + 2 : start + 3]
            candidates = _CLASSES.get(escaped) or _CONTROL.get(escaped) or escaped
        elif first != "^":
            candidates = first
        try:
            found = next((each for each in candidates if re.fullmatch(source, each)), None)
        except re.error as error:
            raise Unsupported(str(error)) from error
        if found is None:
            raise Unsupported(f"not simulated: {source}")
        return found

    def _least(self) -> int:
        """How often the last atom must stand, from the quantifier behind it."""
        least = 1
        match self._peek():
            case "*" | "?":
                self.position, least = self.position + 1, 0
            case "+":
                self.position += 1
            case "{":
                bounds = _BOUNDS.match(self._pattern, self.position)
                if bounds is None:
                    return 1
                self.position, least = bounds.end(), int(bounds[1] or 0)
            case _:
                return 1
        if self._peek() in ("?", "+"):
            self.position += 1
        return least

    def _peek(self) -> str:
        return self._pattern[self.position : self.position + 1]

    def _take(self) -> str:
        char = self._peek()
        self.position += 1
        return char
