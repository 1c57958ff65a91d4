"""The least upstream that the gateway takes for a vLLM: paced tokens, no work.

Run as a process: prints its port. One timer serves all streams, so that the client and the gateway
are what costs.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop
from aiohttp import web

MODEL = "bench"
METRICS = b'vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} 0.0\n'


class Ask(msgspec.Struct):
    """What is read of a request."""

    max_tokens: int = 0
    max_completion_tokens: int = 0
    stream_interval: int = 1
    stream: bool = False


def frame(tokens: int, finish: str) -> bytes:
    """A chunk as vLLM sends it with continuous usage."""
    return (
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1795467777,'
        b'"model":"bench","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,'
        b'"finish_reason":%s,"token_ids":null}],"usage":{"prompt_tokens":15,"total_tokens":%d,'
        b'"completion_tokens":%d,"completion_tokens_details":null}}\n\n'
    ) % (finish.encode(), 15 + tokens, tokens)


async def whole(words: int, interval_s: float) -> web.Response:
    """The same words as one answer. moegate asks for streams only; other routers pass this on."""
    if interval_s:
        await asyncio.sleep(interval_s * words)
    message = {"role": "assistant", "content": " word" * words}
    usage = {
        "prompt_tokens": 15,
        "completion_tokens": words,
        "total_tokens": 15 + words,
    }
    answer = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1795467777,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": usage,
    }
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


async def chat(request: web.Request) -> web.StreamResponse:
    """Streams so many words, one each interval, some in a chunk if that is asked for."""
    ask = msgspec.json.decode(await request.read(), type=Ask)
    words = ask.max_tokens or ask.max_completion_tokens
    interval_s = request.app[INTERVAL_S]
    if not ask.stream:
        return await whole(words, interval_s)
    per_chunk = min(ask.stream_interval, request.app[MOST_PER_CHUNK])
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for token in range(1, words + 1):
        if interval_s:
            await asyncio.sleep(interval_s)
        last = token == words
        if last or (token - 1) % per_chunk == 0:
            try:
                await response.write(frame(token, '"length"' if last else "null"))
            except ConnectionResetError:  # the client has left
                return response
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def models(request: web.Request) -> web.Response:
    """One model."""
    context_tokens = request.app[CONTEXT_TOKENS]
    model = {"id": MODEL, "object": "model", "max_model_len": context_tokens}
    return web.json_response({"object": "list", "data": [model]})


async def health(_: web.Request) -> web.Response:
    """Always well."""
    return web.Response()


async def metrics(_: web.Request) -> web.Response:
    """Always idle."""
    return web.Response(body=METRICS)


MAX_BODY_BYTES = 256 * 1024 * 1024
INTERVAL_S = web.AppKey("interval_s", float)
MOST_PER_CHUNK = web.AppKey("most_per_chunk", int)
CONTEXT_TOKENS = web.AppKey("context_tokens", int)


async def serve(interval_s: float, most_per_chunk: int, context_tokens: int) -> None:
    """Serves until killed. `most_per_chunk`: bound on the `stream_interval` of requests."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[INTERVAL_S] = interval_s
    app[MOST_PER_CHUNK] = most_per_chunk
    app[CONTEXT_TOKENS] = context_tokens
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/completions", chat)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", health)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    most, context = (*sys.argv[2:], *("1", "100000")[len(sys.argv) - 2 :])
    uvloop.run(serve(float(sys.argv[1]), int(most), int(context)))
