"""Upstreams that misbehave on demand, on real sockets, behind a real gateway, on four sides.

`local`: own vLLM replicas; `openai`, `anthropic` and `moegate`: remotes of these APIs. All
upstreams of a test share one script: the list of what becomes of generations, call by call,
whichever of them is asked (the scheduler's choice between equals is not the tests' business); or
each has its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from gateway.config.gateway import GatewayConfig, RemoteConfig, TimeoutsConfig
from gateway.config.limits import LimitsConfig
from gateway.config.remote import FailuresConfig, RemoteApi
from scheduler.contract import AttemptOutcome
from scheduler.metering.rate_snapshot import RateSnapshot, rate_snapshot
from scheduler.metering.settlement import SettledAttempt
from scheduler.pricing import RateTier, TokenRates
from tests import serving
from tests.known import IDLE_METRICS
from tests.misbehaving_moegate import over_grpc
from tests.serving import Serving, until

TIMEOUTS = TimeoutsConfig(connect_s=2.0, first_token_s=2.0, idle_s=2.0, total_s=30.0)
"""Those of a real gateway, scaled: an idle timeout of 30 s would make a stall 30 s long."""
PROMPT_TOKENS = 5
ANSWER_ID = "answer-7"
"""What every upstream calls its answer."""


class Side(enum.StrEnum):
    """Where the upstreams stand."""

    LOCAL = "local"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    MOEGATE = "moegate"


SIDES = tuple(Side)
REMOTE_SIDES = (Side.OPENAI, Side.ANTHROPIC, Side.MOEGATE)
CONTINUING_SIDES = (Side.LOCAL, Side.OPENAI, Side.ANTHROPIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What becomes of one generation.

    `status` other than 200: refused, with `error` in words of `_ERRORS`; `silent_s`: before the
    headers; `first_token_s`: before the first token; `tokens`: then, each with `pause_s` before
    it; `end`: "end", "no_marker" (all but the end marker), "unfinished" (the stream ends without a
    finish), "cut" (the connection breaks), "hang", "garbage", "error" (in the stream), "reset"
    (before the headers). `usage`: (prompt, completion) told, None: none. `frames`: the bytes of the
    whole answer, in place of the above.
    """

    status: int = 200
    error: str = "server"
    retry_after: str | None = None
    silent_s: float = 0.0
    first_token_s: float = 0.0
    tokens: int = 3
    pause_s: float = 0.0
    end: str = "end"
    usage: tuple[int, int] | None = (PROMPT_TOKENS, 3)
    frames: tuple[bytes, ...] = ()


GOOD = Act()


@dataclass(slots=True)
class Script:
    """Acts in order, then `rest` for ever."""

    acts: Sequence[Act] = ()
    rest: Act = GOOD
    _next: Iterable[Act] = field(init=False)

    def __post_init__(self) -> None:
        self._next = itertools.chain(self.acts, itertools.repeat(self.rest))

    def act(self) -> Act:
        return next(iter(self._next))


@dataclass(slots=True)
class Upstream:
    """One server. `calls`: when each generation came, on the loop's clock; `bodies`: what was
    asked; `left`: how many clients went away in the middle."""

    side: Side
    script: Script
    url: str = ""
    calls: list[float] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: int = 0

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(asyncio.get_running_loop().time())
        self.bodies.append(json.loads(await request.read()))
        self.headers.append(dict(request.headers))
        act = self.script.act()
        transport = request.transport
        assert transport is not None
        try:
            if act.silent_s:
                await asyncio.sleep(act.silent_s)
            if act.end == "reset":
                transport.abort()
                return web.Response()
            if act.status != 200:
                return self._refusal(act)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for piece in act.frames:
                await response.write(piece)
            if act.frames:
                return response
            frames = _ANTHROPIC if self.side is Side.ANTHROPIC else _OPENAI
            for frame in frames.head(act):
                await response.write(frame)
            await asyncio.sleep(act.first_token_s)
            for number in range(1, act.tokens + 1):
                await asyncio.sleep(act.pause_s)
                await response.write(frames.token(number, self.side))
            match act.end:
                case "end" | "no_marker":
                    for frame in frames.tail(act):
                        await response.write(frame)
                case "cut":
                    await asyncio.sleep(0.02)  # what was written goes out first
                    transport.abort()
                case "hang":
                    await asyncio.sleep(60)
                case "garbage":
                    await response.write(b"data: {oops\n\n")
                case "error":
                    await response.write(frames.error())
                    await response.write(b"data: [DONE]\n\n")
            return response
        except asyncio.CancelledError:
            self.left += 1
            raise

    def _refusal(self, act: Act) -> web.Response:
        headers = {} if act.retry_after is None else {"Retry-After": act.retry_after}
        words, openai, anthropic = _ERRORS[act.error]
        if self.side is Side.ANTHROPIC:
            error = {"type": "error", "error": {"type": anthropic, "message": words}}
        else:
            error = {"error": {"message": words, "type": "error", **openai}}
        return web.json_response(error, status=act.status, headers=headers)

    async def probe(self, request: web.Request) -> web.StreamResponse:
        body = b'{"model":"m","choices":[{"index":0,"text":"x","finish_reason":"length"}]}'
        answer = b"data: " + body + b"\n\ndata: [DONE]\n\n"
        return web.Response(body=answer, content_type="text/event-stream")

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": serving.MODEL, "max_model_len": 1000}]})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=IDLE_METRICS)


_ERRORS: dict[str, tuple[str, dict[str, str], str]] = {
    "server": ("it broke", {}, "api_error"),
    "busy": ("too many requests", {"code": "rate_limit_exceeded"}, "rate_limit_error"),
    "full": ("overloaded", {}, "overloaded_error"),
    "context": (
        "prompt is too long: maximum context length is 10 tokens",
        {"code": "context_length_exceeded"},
        "invalid_request_error",
    ),
    "filter": (
        "Output blocked by content filtering policy",
        {"code": "content_filter"},
        "invalid_request_error",
    ),
    "spend": ("spend cap reached", {"code": "insufficient_credits"}, "billing_error"),
    "key": ("wrong key", {}, "authentication_error"),
}
"""What is said, further fields of an OpenAI-shaped error, the type of an Anthropic-shaped one."""


class _OpenAIFrames:
    def head(self, act: Act) -> list[bytes]:
        delta = {"role": "assistant", "content": ""}
        return [_data({"id": ANSWER_ID, "model": "m", "choices": [{"index": 0, "delta": delta}]})]

    def token(self, number: int, side: Side) -> bytes:
        frame: dict[str, Any] = {
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": f" w{number}"}}],
        }
        if side is Side.LOCAL:  # vLLM counts with every frame, remotes at the end
            frame["usage"] = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": number}
        return _data(frame)

    def tail(self, act: Act) -> list[bytes]:
        choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
        frames = [_data({"model": "m", "choices": [choice]})]
        if act.usage is not None:
            prompt, completion = act.usage
            usage = {"prompt_tokens": prompt, "completion_tokens": completion}
            frames.append(_data({"model": "m", "choices": [], "usage": usage}))
        return frames if act.end == "no_marker" else [*frames, b"data: [DONE]\n\n"]

    def error(self) -> bytes:
        return _data({"error": {"message": "it broke in the middle", "code": 500}})


class _AnthropicFrames:
    def head(self, act: Act) -> list[bytes]:
        usage = {"output_tokens": 1}
        if act.usage is not None:
            usage["input_tokens"] = act.usage[0]
        message: dict[str, Any] = {"type": "message", "id": ANSWER_ID, "model": "m"}
        message |= {"content": [], "usage": usage}
        block = {"type": "text", "text": ""}
        return [
            _event({"type": "message_start", "message": message}),
            _event({"type": "content_block_start", "index": 0, "content_block": block}),
            _event({"type": "ping"}),
        ]

    def token(self, number: int, side: Side) -> bytes:
        delta = {"type": "text_delta", "text": f" w{number}"}
        return _event({"type": "content_block_delta", "index": 0, "delta": delta})

    def tail(self, act: Act) -> list[bytes]:
        end: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
        if act.usage is not None:
            end["usage"] = {"output_tokens": act.usage[1]}
        frames = [_event({"type": "content_block_stop", "index": 0}), _event(end)]
        return frames if act.end == "no_marker" else [*frames, _event({"type": "message_stop"})]

    def error(self) -> bytes:
        error = {"type": "overloaded_error", "message": "it broke in the middle"}
        return _event({"type": "error", "error": error})


_OPENAI, _ANTHROPIC = _OpenAIFrames(), _AnthropicFrames()


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\n".encode() + _data(value)


INPUT_NANO_USD, OUTPUT_NANO_USD = 1000, 4000
"""What a token costs everywhere, so that a bill can be counted by hand."""
RATES = TokenRates(
    row_id="test/row",
    tiers=(
        RateTier(
            uncached_input=INPUT_NANO_USD * 1_000_000,
            cached_input=INPUT_NANO_USD * 1_000_000,
            cache_write=INPUT_NANO_USD * 1_000_000,
            output=OUTPUT_NANO_USD * 1_000_000,
        ),
    ),
)


@dataclass(slots=True)
class Bench:
    """A gateway before misbehaving upstreams, and what its accounts were told."""

    served: Serving
    upstreams: tuple[Upstream, ...]
    settled: list[SettledAttempt]
    tasks: int

    @property
    def calls(self) -> int:
        """Generations that reached any upstream."""
        return sum(len(upstream.calls) for upstream in self.upstreams)

    def of(self, outcome: AttemptOutcome) -> list[SettledAttempt]:
        """Attempts that ended so."""
        return [attempt for attempt in self.settled if attempt.outcome is outcome]

    async def closes(self, *, unreached: int = 0, perhaps: int = 0) -> None:
        """Nothing runs or waits, every attempt is settled once, every request that was answered
        has one final account, and no task is left.

        `unreached`: attempts that no upstream saw; `perhaps`: more that may be so, because their
        deadline came in the middle of the call.
        """
        scheduler = self.served.gateway.scheduler.core
        await until(lambda: repr(scheduler) == "<Scheduler: 0 queued, 0 running>")
        await until(lambda: self.served.gateway.pipeline.active_requests == 0)
        seen = Counter((attempt.request_id, attempt.attempt) for attempt in self.settled)
        assert set(seen.values()) <= {1}, "an attempt that was settled twice"
        unseen = len(self.settled) - self.calls - unreached
        assert 0 <= unseen <= perhaps, [(a.request_id, a.outcome) for a in self.settled]
        finals = Counter(attempt.request_id for attempt in self.settled if attempt.final)
        assert set(finals.values()) <= {1}, "a request with two final accounts"
        await until(lambda: tasks() <= self.tasks)


def names_of_tasks() -> set[str]:
    """Names of all tasks."""
    return {task.get_name() for task in asyncio.all_tasks()}


def tasks() -> int:
    """Tasks of the gateway: all but those of the upstreams' and clients' kept connections."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum("RequestHandler" not in name for name in names)


@contextlib.asynccontextmanager
async def listening(upstream: Upstream) -> AsyncIterator[None]:
    """Serves it on a free port; `url` says where."""
    app = web.Application(handler_args={"handler_cancellation": True})
    app.router.add_post("/v1/chat/completions", upstream.generate)
    app.router.add_post("/v1/messages", upstream.generate)
    app.router.add_post("/v1/completions", upstream.probe)
    app.router.add_get("/v1/models", upstream.models)
    app.router.add_get("/metrics", upstream.metrics)
    async with on_a_port(app) as upstream.url:
        yield


@contextlib.asynccontextmanager
async def on_a_port(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serves an application on loopback; gives its address. `port`: 0: a free one."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def misbehaving(
    side: Side,
    *scripts: Script,
    failures: FailuresConfig | None = None,
    limits: LimitsConfig | None = None,
    timeouts: TimeoutsConfig = TIMEOUTS,
    urls: Callable[[list[str]], list[str]] = lambda urls: urls,
    change: Callable[[RemoteConfig], RemoteConfig] = lambda remote: remote,
    ready: int | None = None,
) -> AsyncIterator[Bench]:
    """A gateway before one upstream a script. `urls` changes their addresses, `change` the
    configuration of remotes; `ready`: how many come into service (None: all)."""
    async with contextlib.AsyncExitStack() as stack:
        upstreams = tuple(Upstream(side, script) for script in scripts)
        for upstream in upstreams:
            listens = over_grpc if side is Side.MOEGATE else listening
            await stack.enter_async_context(listens(upstream))
        addresses = urls([upstream.url for upstream in upstreams])
        settings = _config(side, addresses, timeouts, change)
        settings = msgspec.structs.replace(
            settings, failures=failures or FailuresConfig(), limits=limits or LimitsConfig()
        )
        settled: list[SettledAttempt] = []
        served = await stack.enter_async_context(
            serving.serving(settings, sinks=(settled.append,), ready=False)
        )
        await serving.until_serving(served.gateway, len(scripts) if ready is None else ready)
        scheduler = served.gateway.scheduler
        placements = [state.facts for state in scheduler.core.placements]
        remotes = rate_snapshot(placements).remotes
        rates = {placement.name: RATES for placement in placements}
        scheduler.use_rates(RateSnapshot(rates=rates, remotes=remotes))
        # Remotes are in service at once, before all that runs beside has begun.
        await until(lambda: "moegate-batch-retention" in names_of_tasks())
        yield Bench(served, upstreams, settled, tasks())


def _config(
    side: Side,
    urls: list[str],
    timeouts: TimeoutsConfig,
    change: Callable[[RemoteConfig], RemoteConfig],
) -> GatewayConfig:
    if side is Side.LOCAL:
        return serving.config(pools=[serving.pool(urls, timeouts=timeouts, max_num_seqs=64)])
    api = RemoteApi(side.value)
    if api is RemoteApi.MOEGATE:
        urls = [url.replace("http", "grpc", 1) for url in urls]
    remotes = [
        change(
            RemoteConfig(
                name=f"far-{chr(ord('a') + i)}",
                remote_class="eu",
                model=serving.MODEL,
                api=api,
                url=url,
                max_concurrency=64,
                timeouts=timeouts,
            )
        )
        for i, url in enumerate(urls)
    ]
    return serving.config(remotes=remotes)
