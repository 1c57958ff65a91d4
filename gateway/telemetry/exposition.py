"""The metrics page for Prometheus: GET /metrics on a separate HTTP listener.

Frozen values are read on the event loop; a thread formats the page, so that a scrape delays no
stream. A client that accepts OpenMetrics gets it, with exemplars.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gateway.domain.listening import listening_sockets

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def exposition(
    listen: str, registry: CollectorRegistry, refresh: Callable[[], Awaitable[None]]
) -> AsyncIterator[str]:
    """Serves the registry and yields the bound address.

    `refresh` is called on the event loop before each page. Raises OSError with the configuration
    field if it cannot listen.
    """
    # One page at a time: a second scraper waits, so that memory does not double.
    one = asyncio.Lock()

    async def metrics(request: web.Request) -> web.Response:
        async with one:
            await refresh()
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
            page = await asyncio.to_thread(encode, registry)
        return web.Response(body=page, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        sockets = listening_sockets(listen, field="telemetry.metrics_listen")
        port = sockets[0].getsockname()[1]
        for listening in sockets:
            await web.SockSite(runner, listening).start()
        address = f"{listen.rpartition(':')[0]}:{port}"
        log.info("metrics on http://%s/metrics", address)
        yield address
    finally:
        await runner.cleanup()
