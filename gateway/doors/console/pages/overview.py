"""The first page: the one that the reader's role begins with."""

from __future__ import annotations

from aiohttp import web

from gateway.config.gateway import KeyRole
from gateway.doors.console.routes import Page
from gateway.doors.console.visits import Visit


async def _first(visit: Visit) -> web.Response:
    is_operator = visit.visitor.caller.role is KeyRole.OPERATOR
    return visit.see("/fleet" if is_operator else "/models")


OVERVIEW_PAGES = (Page(path="/", handle=_first),)
