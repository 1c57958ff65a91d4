"""A prefill and a decode engine behind a small proxy, which has no metrics and no list of models.

The proxy does what vLLM's own example does for its NIXL connector: it sends a generation to the
first engine with one token to make and `do_remote_decode`, and then, with the transfer parameters
of that answer, to the second one, whose answer the client gets.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from moegate.simulated_vllm.config import SimulatedVllmConfig
from moegate.simulated_vllm.connector.transfers import KvConnector
from moegate.simulated_vllm.listener import Listener
from moegate.simulated_vllm.server import MAX_BODY_BYTES, SimulatedVllm, simulated_vllm

ASKED_TO_PREFILL = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
_FORWARDED = ("Authorization", "Content-Type", "X-Request-Id")
_ANSWERED = ("Content-Type", "Retry-After")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPair:
    """A running pair. `url`: of the proxy."""

    url: str
    prefill: SimulatedVllm
    decode: SimulatedVllm


class _Proxy:
    def __init__(
        self, prefill: SimulatedVllm, decode: SimulatedVllm, http: aiohttp.ClientSession
    ) -> None:
        self._prefill, self._decode, self._http = prefill, decode, http

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/healthcheck", self._health)
        for path in ("/v1/chat/completions", "/v1/completions"):
            app.router.add_post(path, self._generate)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        body: dict[str, Any] = msgspec.json.decode(await request.read())
        prefill = {
            **{name: value for name, value in body.items() if name != "stream_options"},
            "stream": False,
            "min_tokens": 0,
            "kv_transfer_params": ASKED_TO_PREFILL,
            "max_tokens": 1,
        }
        if "max_completion_tokens" in body:
            prefill["max_completion_tokens"] = 1
        url = self._prefill.url + request.path
        async with self._http.post(url, json=prefill, headers=headers) as answer:
            data = await answer.read()
            if answer.status != 200:
                return web.Response(body=data, status=answer.status, headers=_kept(answer))
        body["kv_transfer_params"] = msgspec.json.decode(data)["kv_transfer_params"]
        url = self._decode.url + request.path
        async with self._http.post(url, json=body, headers=headers) as answer:
            response = web.StreamResponse(status=answer.status, headers=_kept(answer))
            # A client that disconnects is no error: the engine sees its connection end, too.
            with contextlib.suppress(aiohttp.ClientConnectionResetError):
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
            return response


def _kept(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: answer.headers[name] for name in _ANSWERED if name in answer.headers}


def _connected(config: SimulatedVllmConfig) -> SimulatedVllmConfig:
    return replace(config, kv_connector=config.kv_connector or KvConnector())


@contextlib.asynccontextmanager
async def simulated_pair(
    prefill: SimulatedVllmConfig,
    decode: SimulatedVllmConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[SimulatedPair]:
    """Serves both engines and the proxy, which listens on `port`, until the block is left."""
    async with (
        simulated_vllm(_connected(prefill)) as first,
        simulated_vllm(_connected(decode)) as second,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http,
    ):
        listener = Listener(_Proxy(first, second, http).application(), host, port)
        await listener.start()
        try:
            yield SimulatedPair(url=listener.url, prefill=first, decode=second)
        finally:
            await listener.stop()
