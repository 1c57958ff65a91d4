"""What a dialect adds to the HTTP port: its routes and the shape of its errors."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web

from gateway.doors.http.errors import HttpError
from gateway.doors.http.exchange import Exchange

Handler: TypeAlias = Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorShape:
    """An error as a dialect words it. `headers`: further headers."""

    status: int
    body: bytes
    headers: Mapping[str, str]


ErrorShapeOf: TypeAlias = Callable[[HttpError, str], ErrorShape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method and path. `{name}` stands for one part of the path, `{name...}` for the rest.
    `generates`: the handler runs a generation, which holds a slot of the key by itself."""

    method: str
    path: str
    handle: Handler
    generates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A dialect of HTTP. `is_spoken`: whether a client with these headers speaks it, which decides
    where two dialects have the same path, and in which shape an unknown path is refused. `error`:
    the shape of an error; its second argument is the request's id."""

    name: str
    routes: tuple[Route, ...]
    is_spoken: Callable[[Mapping[str, str]], bool]
    error: ErrorShapeOf


@dataclass(frozen=True, slots=True)
class Found:
    """The route of a request. `parameters`: parts of its path."""

    dialect: Dialect
    route: Route
    parameters: Mapping[str, str]


class Routes:
    """The routes of all dialects."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        """`dialects`: one that every client speaks is the last."""
        self._dialects = tuple(dialects)
        self._patterns = [
            (dialect, route, _pattern(route.path))
            for dialect in dialects
            for route in dialect.routes
        ]

    def spoken(self, headers: Mapping[str, str]) -> Dialect:
        """The dialect of a client, by its headers alone."""
        return next(each for each in self._dialects if each.is_spoken(headers))

    def find(self, method: str, path: str, headers: Mapping[str, str]) -> Found | frozenset[str]:
        """The route of a request; if there is none, the methods that the path has."""
        methods = set()
        candidates: list[Found] = []
        for dialect, route, pattern in self._patterns:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            methods.add(route.method)
            if route.method == method:
                candidates.append(Found(dialect, route, match.groupdict()))
        for found in candidates:
            if len(candidates) == 1 or found.dialect.is_spoken(headers):
                return found
        return frozenset(methods)


def _pattern(path: str) -> re.Pattern[str]:
    text = re.escape(path).replace(r"\{", "{").replace(r"\}", "}").replace(r"\.\.\.", "...")
    text = re.sub(r"\{([a-z_]+)\.\.\.\}", r"(?P<\1>.+)", text)
    return re.compile(re.sub(r"\{([a-z_]+)\}", r"(?P<\1>[^/]+)", text))
