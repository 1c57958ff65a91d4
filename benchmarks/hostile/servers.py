"""Servers that fail or lie, each a process: `run.py` runs them behind a gateway.

    python -m benchmarks.hostile.servers {replica|broken|liar} PORT SEED

`replica`: a simulated vLLM whose process dies of one prompt. `broken`: one that answers 400 to
everything after its first answers. `liar`: a remote API whose streams are wrong in many ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from itertools import count

import uvloop
from aiohttp import ClientConnectionResetError, web

from moegate.simulated_vllm.config import SimulatedVllmConfig
from moegate.simulated_vllm.listener import Handler, Listener
from moegate.simulated_vllm.server import SimulatedVllm

MODEL, FAR = "bench", "far"
POISON = "the prompt that kills"
GOOD_ANSWERS = 3
"""Answers of a broken replica before it breaks: enough to enter service."""
ENDLESS_FRAMES = 20_000
HANG_S = 20.0


class _Mortal(SimulatedVllm):
    """Dies of `POISON`. With `breaks`, answers 400 after `GOOD_ANSWERS`."""

    def __init__(self, config: SimulatedVllmConfig, *, breaks: bool) -> None:
        super().__init__(config, None)
        self._left = GOOD_ANSWERS if breaks else sys.maxsize

    def application(self) -> web.Application:
        app = super().application()

        @web.middleware
        async def fails(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.method == "POST" and request.path.startswith("/v1"):
                if POISON.encode() in await request.read():
                    os._exit(1)
                self._left -= 1
                if self._left < 0:
                    error = {"message": "no chat template", "type": "BadRequestError", "code": 400}
                    return web.json_response({"error": error}, status=400)
            return await handler(request)

        app.middlewares.append(fails)
        return app


async def replica(port: int, seed: int, *, breaks: bool) -> None:
    """Serves until the process is killed."""
    config = SimulatedVllmConfig(served_model_name=MODEL, port=port, seed=seed, max_num_seqs=64)
    server = _Mortal(config, breaks=breaks)
    listener = Listener(server.application(), config.host, config.port)
    await listener.start()
    print(listener.url, flush=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.driver.run())
        group.create_task(server.fault_driver.run(listener))


class Liar:
    """Answers of a remote. The way to lie is drawn for each request."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """A stream that is wrong, or a refusal."""
        await request.read()
        lies = ("honest", "much", "nothing", "absent", "odd", "endless", "calls", "cut", "hangs")
        lie = self._random.choice((*lies, "waits", "refuses"))
        if lie == "waits":
            error = {"error": {"message": "wait"}}
            return web.json_response(error, status=429, headers={"Retry-After": "1"})
        if lie == "refuses":
            return web.json_response({"detail": [{"msg": "no"}]}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ClientConnectionResetError):  # the gateway has heard enough
            async for frame in _frames(lie):
                await response.write(f"data: {json.dumps(frame)}\n\n".encode())
            if lie != "cut":
                await response.write(b"data: [DONE]\n\n")
        return response


def _frame(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "far", "object": "chat.completion.chunk", "model": FAR, "choices": [choice]}


async def _frames(lie: str) -> AsyncIterator[dict[str, object]]:
    for number in count() if lie == "endless" else range(8):
        yield _frame({"content": f"word{number} "})
        if number > ENDLESS_FRAMES:
            return
    if lie == "cut":
        return
    if lie == "hangs":
        await asyncio.sleep(HANG_S)
    if lie == "calls":
        for name in ("one", "two"):
            call = {"index": 0, "id": "", "function": {"name": name, "arguments": {}}}
            yield _frame({"tool_calls": [call]})
    yield _frame({}, "stop")
    usages: dict[str, dict[str, object]] = {
        "honest": {"prompt_tokens": 10, "completion_tokens": 8},
        "much": {"prompt_tokens": 1 << 40, "completion_tokens": 1 << 40},
        "nothing": {"prompt_tokens": 0, "completion_tokens": 0},
        "odd": {"prompt_tokens": "ten", "completion_tokens": [8.5], "total_tokens": None},
    }
    if lie in usages:
        yield {**_frame({}), "choices": [], "usage": usages[lie]}


async def liar(port: int, seed: int) -> None:
    """Serves until the process is killed."""
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", Liar(seed).answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"http://127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Runs one server."""
    kind, port, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if kind == "liar":
        uvloop.run(liar(port, seed))
    else:
        uvloop.run(replica(port, seed, breaks=kind == "broken"))


if __name__ == "__main__":
    main()
