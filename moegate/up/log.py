"""What the log of a failed process says: its first errors, which have the cause, and its end."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

TAIL_LINES = 40
TAIL_BYTES = 64 * 1024
ERROR_BYTES = 4 * 1024 * 1024
"""The first errors are looked for in this much of the log's end."""
ERROR_LINES = 4
"""Lines shown of the first exception, and error lines shown before it."""
TRACEBACK_LINES = 400
LINE_CHARACTERS = 1000

_PREFIX = re.compile(
    r"(?P<process>\([^()]* pid=\d+\) ?)?"
    r"(?P<level>[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
)
"""Of each line: the process that wrote it, then the level, the time and the place in the code."""
_TRACEBACK = "Traceback (most recent call last):"
_ERROR_LEVELS = ("ERROR ", "CRITICAL ", "FATAL ")
_ERROR = re.compile(
    r"Traceback \(most recent call last\):"
    r"|[\w.]+(Error|Exception|Interrupt|Exit)(:|$)"
    r"|(\S+ )?\S+: error: |[Ee]rror: |thread '.*' panicked at |Fatal Python error: "
    r"|\S*\s*(ERROR|CRITICAL|FATAL) "
)


def failure(log: Path) -> str:
    """The first errors, if there are any, and the last lines of a log."""
    parts = []
    if errors := first_errors(_lines(log, ERROR_BYTES)):
        parts += [f"--- first errors in {log}", *_indented(errors)]
    parts += [f"--- end of {log}", *_indented(_lines(log, TAIL_BYTES)[-TAIL_LINES:])]
    return "\n".join(parts)


def last_line(log: Path) -> str:
    """The last line of a log that is not blank, with single spaces."""
    words = (line.split() for line in reversed(_lines(log, TAIL_BYTES)[-TAIL_LINES:]))
    return next((" ".join(some) for some in words if some), "")


def first_errors(lines: list[str]) -> list[str]:
    """The first exception, after the error lines before it; empty if there is neither.

    Of a traceback only the exception is shown. Errors that follow from it come later in the log,
    mostly from the processes that waited for the one that failed. An error line alone may be
    harmless: vLLM's CPU build writes one at each start.
    """
    found: list[str] = []
    for i, line in enumerate(lines):
        process, level, text = _parts(line)
        if not (level.startswith(_ERROR_LEVELS) or _ERROR.match(text)):
            continue
        # The other processes write in between.
        near = map(_parts, lines[i : i + TRACEBACK_LINES])
        own = [other_text for other, _, other_text in near if other == process]
        if _TRACEBACK in own[:2]:
            return [*found, *_exception(own[own.index(_TRACEBACK) + 1 :])]
        if len(found) < ERROR_LINES:
            found.append(text)
    return found


def _exception(lines: list[str]) -> list[str]:
    """The exception at the end of a traceback. Its message may go on, indented."""
    first = next((i for i, line in enumerate(lines) if line[:1].strip()), len(lines))
    more = takewhile(lambda line: line[:1].isspace(), lines[first + 1 : first + ERROR_LINES])
    return [*lines[first : first + 1], *more]


def _parts(line: str) -> tuple[str, str, str]:
    """The process, the level with the time, and the text of a line."""
    prefix = _PREFIX.match(line)
    if prefix is None:
        return "", "", line
    return prefix["process"] or "", prefix["level"] or "", line[prefix.end() :]


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line[:LINE_CHARACTERS]}" for line in lines]


def _lines(log: Path, most_bytes: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most_bytes))
        return file.read(most_bytes).decode(errors="replace").splitlines()
