"""Pages of the console, and how a request finds its page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from aiohttp import web

from gateway.config.gateway import KeyRole
from gateway.doors.console.visitor import Visitor
from gateway.doors.console.visits import Visit

EVERY_ROLE = frozenset(KeyRole)
ADMINS = frozenset({KeyRole.OPERATOR, KeyRole.TENANT_ADMIN})
OPERATORS = frozenset({KeyRole.OPERATOR})
REFRESH_S = 2.0
"""Seconds between two refreshes of a live part."""


def own(visitor: Visitor) -> Hashable:
    """Scope of what each key sees differently."""
    caller = visitor.caller
    return caller.role, caller.tenant, caller.key_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A part of a page that refreshes itself every `REFRESH_S` seconds.

    Attributes:
        template: of the part. Nothing in it depends on the visitor beyond `scope`.
        values: asks for the values of the template.
        scope: viewers of the same scope share one part, and so the work for it.
    """

    template: str
    values: Callable[[Visit], Awaitable[dict[str, object]]]
    scope: Callable[[Visitor], Hashable] = own


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One path and method.

    Attributes:
        path: parts in braces are parameters: /requests/{request_id}.
        roles: who may see it; empty: everybody, without signing in.
        name: in the navigation; empty: it is not there.
        group: heading of the navigation that it stands under.
        live: its part that refreshes itself; None: it has none.
    """

    path: str
    handle: Callable[[Visit], Awaitable[web.StreamResponse]]
    method: str = "GET"
    roles: frozenset[KeyRole] = EVERY_ROLE
    name: str = ""
    group: str = ""
    live: Live | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The page of a request. `parameters`: values of the path's parameters by name."""

    page: Page
    parameters: dict[str, str]


class Routes:
    """Finds pages by method and path."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self.pages = tuple(pages)
        self._parts = [(page.path.split("/"), page) for page in pages]

    def find(self, method: str, raw_path: str) -> Found | frozenset[str]:
        """Returns the page, or the methods that the path has: none means that there is no such
        path. HEAD is answered as GET."""
        parts = raw_path.split("/")
        methods = set()
        for names, page in self._parts:
            parameters = _match(names, parts)
            if parameters is None:
                continue
            if page.method == ("GET" if method == "HEAD" else method):
                return Found(page, parameters)
            methods.add(page.method)
        return frozenset(methods)


def _match(names: list[str], parts: list[str]) -> dict[str, str] | None:
    if len(names) != len(parts):
        return None
    parameters = {}
    for name, part in zip(names, parts, strict=True):
        if name.startswith("{"):
            if not part:
                return None
            parameters[name[1:-1]] = unquote(part)
        elif name != part:
            return None
    return parameters
