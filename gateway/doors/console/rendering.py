"""Renders templates, and shares live parts between viewers of the same scope."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Hashable, Mapping

import jinja2
from aiohttp import web
from markupsafe import Markup

from gateway.doors.console.assets import Assets
from gateway.doors.console.filters import FILTERS, GLOBALS
from gateway.doors.console.routes import REFRESH_S, Live, Page
from gateway.doors.console.visits import Visit
from scheduler.limits.tenant_store import TenantStore

LIVE_HEADER = "X-Moegate-Live"
"""Header of the script's requests for the live part of a page."""
MOST_SHARED = 512
"""Live parts that are kept at once; of more than that, the tenant with most loses its oldest."""


class Rendering:
    """Makes pages of templates. `pages`: all of them, for the navigation."""

    def __init__(self, pages: tuple[Page, ...], assets: Assets, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._navigation = [page for page in pages if page.name]
        self._shared: TenantStore[Hashable, tuple[float, asyncio.Task[str]]]
        self._shared = TenantStore(MOST_SHARED)
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("gateway.doors.console"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals.update(GLOBALS)
        self._templates.globals["asset"] = assets.address

    async def page(
        self, page: Page, visit: Visit, template: str, status: int, values: Mapping[str, object]
    ) -> web.Response:
        """Renders a page in the layout."""
        part = None if page.live is None else await self._live_part(page.live, visit, 0.0)
        text = self._templates.get_template(template).render(
            values,
            live_part=None if part is None else Markup(part),
            navigation=self._seen_by(visit),
            current=page,
            visitor=visit.somebody,
            csrf_field=lambda: _csrf_field(visit),
            refresh_s=REFRESH_S,
        )
        return web.Response(status=status, text=text, content_type="text/html")

    async def live_answer(self, live: Live, visit: Visit) -> web.Response:
        """Returns the live part alone; 304 if the reader has it already."""
        text = await self._live_part(live, visit, REFRESH_S * 0.9)
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        if visit.request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        return web.Response(text=text, content_type="text/html", headers={"ETag": tag})

    async def _live_part(self, live: Live, visit: Visit, oldest_s: float) -> str:
        """Renders a live part, or returns that of another viewer if it is not older than
        `oldest_s`: 0 for a page that is loaded, as it may follow a change. Raises Problem or
        AioRpcError."""
        key = (live.template, live.scope(visit.visitor), visit.request.path_qs)
        kept = self._shared.get(key)
        if kept is None or kept[0] + oldest_s <= self._clock():
            making = asyncio.create_task(self._make(live, visit))
            making.add_done_callback(_retrieve)
            kept = (self._clock(), making)
            self._shared.put(visit.visitor.caller.tenant, key, kept)
        try:
            return await asyncio.shield(kept[1])
        except Exception:
            if self._shared.get(key) is kept:
                self._shared.pop(key)  # the next viewer asks again
            raise

    async def _make(self, live: Live, visit: Visit) -> str:
        values = await live.values(visit)
        return self._templates.get_template(live.template).render(values)

    def _seen_by(self, visit: Visit) -> dict[str, list[Page]]:
        """Pages of the navigation by their heading."""
        found: dict[str, list[Page]] = {}
        if visit.somebody is not None:
            for page in self._navigation:
                if visit.somebody.caller.role in page.roles:
                    found.setdefault(page.group, []).append(page)
        return found


def _csrf_field(visit: Visit) -> Markup:
    return Markup('<input type="hidden" name="csrf" value="{}">').format(visit.visitor.csrf_token)


def _retrieve(made: asyncio.Task[str]) -> None:
    """Marks an error as seen, also where every viewer has gone."""
    if not made.cancelled():
        made.exception()
