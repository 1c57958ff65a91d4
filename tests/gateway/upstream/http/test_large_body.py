"""A large body arrives whole, with its length, and can be sent again."""

from __future__ import annotations

import warnings

import aiohttp
from aiohttp import web

from gateway.upstream.http.large_body import LARGE_BODY_BYTES, LargeBody


async def test_it_arrives_whole_and_again() -> None:
    received: list[tuple[bytes, int | None]] = []

    async def take(request: web.Request) -> web.Response:
        received.append((await request.read(), request.content_length))
        return web.Response()

    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    body = bytes(range(256)) * (LARGE_BODY_BYTES // 100)
    try:
        async with aiohttp.ClientSession() as session:
            data = LargeBody(body)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for _ in range(2):
                    host, port = runner.addresses[0][:2]
                    headers = {"Content-Type": "application/json"}
                    url = f"http://{host}:{port}/"
                    async with session.post(url, data=data, headers=headers) as response:
                        assert response.status == 200
    finally:
        await runner.cleanup()
    assert received == [(body, len(body))] * 2
