"""HTTP routes of the simulated vLLM, and the context manager that serves them.

`jobs` checks a request, the engine generates its tokens, `frames` and `responses` write them.
When a client disconnects, aiohttp cancels the handler (handler_cancellation), and the handler
removes the request's sequences from the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import blake2b

import msgspec
from aiohttp import ClientConnectionResetError, web

from moegate.simulated_vllm.config import ModelTask, SimulatedVllmConfig
from moegate.simulated_vllm.connector.transfers import Transfers
from moegate.simulated_vllm.driver import EngineDriver, RequestProgress
from moegate.simulated_vllm.failures import (
    BadForm,
    Refused,
    bad_json,
    bad_shape,
    bad_value,
    prompt_too_long,
    queue_full,
    unknown_pooling_model,
)
from moegate.simulated_vllm.fault_driver import FaultDriver
from moegate.simulated_vllm.fault_effects import FaultEffects, truncated
from moegate.simulated_vllm.faults.kinds import Faults
from moegate.simulated_vllm.frames import DONE, Frames
from moegate.simulated_vllm.jobs import Job, check_model, make_job, pinned_rank
from moegate.simulated_vllm.listener import Handler, Listener
from moegate.simulated_vllm.lora.adapters import (
    AdapterRefused,
    LoadedAdapters,
    decode_load,
    decode_unload,
)
from moegate.simulated_vllm.metrics import HEADERS, Served, render
from moegate.simulated_vllm.pooling.jobs import (
    BadInput,
    InputTooLong,
    PoolingJob,
    ServedModel,
    embedding_job,
    rerank_job,
    score_job,
)
from moegate.simulated_vllm.prompts import answer_opening, chat_prompt, is_thinking
from moegate.simulated_vllm.responses import model_list, response_body
from moegate.simulated_vllm.step_recorder import StepRecorder
from moegate.simulated_vllm.wire import (
    TokenizeAnswer,
    decode_detokenize,
    decode_generation,
    decode_tokenize,
    encode,
)
from moegate.vllm_plugin.feed import PATH as STEPS_PATH
from simulation.engine.engine import Engine
from simulation.engine.physics import Physics
from simulation.tokenizer import decode as text_of
from simulation.tokenizer import encode as token_ids
from simulation.tokenizer import token_bytes

__all__ = ["SimulatedVllm", "SimulatedVllmConfig", "simulated_vllm"]

VERSION = "0.32.0"
GUARDED_PREFIXES = ("/v1", STEPS_PATH)
"""Paths that need the API key; vLLM leaves health, metrics and the tokenizer open."""
MAX_BODY_BYTES = 64 << 20


class SimulatedVllm:
    """A running server. `url` has no path and no trailing slash."""

    def __init__(self, config: SimulatedVllmConfig, die: Callable[[], None] | None) -> None:
        self.config = config
        physics = Physics(config.scaled_step_model(), config.expert_load)
        self.engine = Engine(config.engine_config(), physics, config.seed)
        self.recorder = StepRecorder(self.engine, VERSION, count_experts=config.count_experts)
        self.driver = EngineDriver(self.engine, self.recorder)
        self.fault_driver = FaultDriver(config.faults, die)
        self.adapters = LoadedAdapters(config.lora_modules, config.max_loras)
        self.transfers = Transfers(config.kv_connector, config.block_size, config.speed)
        self.url = ""
        self.queue_rejections = 0
        self.began_s = time.time()
        name = f"{config.served_model_name}/{config.seed}".encode()
        self._fingerprint = f"vllm-{VERSION}-{blake2b(name, digest_size=4).hexdigest()}"

    @property
    def open_requests(self) -> int:
        """Generations that have neither ended nor been aborted."""
        return self.driver.open_requests

    @property
    def faults(self) -> Faults:
        """The injected faults. Setting them restarts their counts and clock, and opens the
        listener, also after a crash."""
        return self.fault_driver.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.fault_driver.faults = faults

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(
            client_max_size=MAX_BODY_BYTES, middlewares=[self._guard, self._refusals]
        )
        app.router.add_routes(
            [
                web.get("/health", self._health),
                *(web.route(method, "/ping", self._health) for method in ("GET", "POST")),
                web.get("/version", self._version),
                web.get("/load", self._load),
                web.get("/metrics", self._metrics),
                web.get(STEPS_PATH, self._steps),
                web.get("/v1/models", self._models),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
            ]
        )
        if self.config.enable_lora:
            app.router.add_post("/v1/load_lora_adapter", self._change_adapters)
            app.router.add_post("/v1/unload_lora_adapter", self._change_adapters)
        if self.config.task is ModelTask.GENERATE:
            app.router.add_post("/v1/chat/completions", self._chat)
            app.router.add_post("/v1/completions", self._completion)
            return app
        if self.config.task is ModelTask.EMBED:
            app.router.add_post("/v1/embeddings", self._pooling(embedding_job))
        for prefix in ("", "/v1"):
            app.router.add_post(f"{prefix}/score", self._pooling(score_job))
            app.router.add_post(f"{prefix}/rerank", self._pooling(rerank_job))
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        key = self.config.api_key
        if key is not None and request.path.startswith(GUARDED_PREFIXES):
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            given, wanted = token.encode(), key.encode()
            if scheme.lower() != "bearer" or not secrets.compare_digest(given, wanted):
                return _json(encode({"error": "Unauthorized"}), 401)
        return await handler(request)

    @web.middleware
    async def _refusals(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            return _json(refused.body, refused.status, refused.headers)
        except web.HTTPNotFound:
            return _json(encode({"detail": "Not Found"}), 404)
        except (msgspec.DecodeError, RecursionError) as error:
            shape = bad_json(error)
            return _json(shape.body, shape.status)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return _json(encode({"version": VERSION}))

    async def _load(self, _: web.Request) -> web.Response:
        return _json(encode({"server_load": self.open_requests}))

    async def _metrics(self, _: web.Request) -> web.Response:
        served = Served(
            config=self.config,
            began_s=self.began_s,
            queue_rejections=self.queue_rejections,
            adapters=self.adapters if self.config.enable_lora else None,
            transfers=self.transfers if self.config.kv_connector else None,
        )
        return web.Response(body=render(self.engine, served), headers=HEADERS)

    async def _steps(self, request: web.Request) -> web.Response:
        """The route of moegate's plugin, which a server without a key does not have."""
        if self.config.api_key is None:
            return _json(encode({"detail": "Not Found"}), 404)
        return _json(self.recorder.feed.answer(request.query.getall("after", [])))

    async def _models(self, _: web.Request) -> web.Response:
        return _json(model_list(self.config, self.adapters.paths, int(time.time())))

    async def _change_adapters(self, request: web.Request) -> web.Response:
        """Loads or unloads an adapter, as vLLM does with VLLM_ALLOW_RUNTIME_LORA_UPDATING."""
        body = await _body(request)
        try:
            if request.path.startswith("/v1/load"):
                served = self.config.served_model_name
                return web.Response(text=self.adapters.load(decode_load(body), served))
            return web.Response(text=self.adapters.unload(decode_unload(body)))
        except AdapterRefused as error:
            raise Refused(error.status, error.kind, str(error)) from error

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = decode_tokenize(await _body(request))
        check_model(body.model, self.config, self.adapters.paths)
        if body.messages is not None:
            ids = chat_prompt(
                body.messages,
                body.tools,
                generation_prompt=body.add_generation_prompt,
                opening=answer_opening(
                    self.config.reasoning_parser, thinking=is_thinking(body.chat_template_kwargs)
                ),
            )
        elif body.prompt is not None:
            ids = token_ids(body.prompt)
        else:
            raise bad_shape("missing", "body.prompt", "Field required")
        strings = None
        if body.return_token_strs:
            strings = [token_bytes(token_id).decode(errors="replace") for token_id in ids]
        return _json(encode(TokenizeAnswer(len(ids), self.config.max_model_len, ids, strings)))

    async def _detokenize(self, request: web.Request) -> web.Response:
        body = decode_detokenize(await _body(request))
        check_model(body.model, self.config, self.adapters.paths)
        try:
            text = text_of(body.tokens)
        except ValueError as error:
            raise bad_value("tokens", str(error)) from error
        return _json(encode({"prompt": text}))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, is_chat=True)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, is_chat=False)

    async def _generate(self, request: web.Request, *, is_chat: bool) -> web.StreamResponse:
        body = decode_generation(await _body(request))
        header = request.headers.get("X-data-parallel-rank")
        rank = pinned_rank(header, self.config.data_parallel_size)
        name = request.headers.get("X-Request-Id") or body.request_id or secrets.token_hex(8)
        response_id = f"{'chatcmpl' if is_chat else 'cmpl'}-{name}"
        try:
            job = make_job(
                body,
                self.config,
                is_chat=is_chat,
                response_id=response_id,
                # The caller's id need not be unique.
                engine_id=f"{response_id}-{secrets.token_hex(4)}",
                created_s=int(time.time()),
                adapters=self.adapters.paths,
            )
        except BadForm as refused:
            if not body.stream:
                raise
            return web.Response(
                body=b"data: %s\n\n%s" % (refused.body, DONE),
                headers={"Content-Type": "text/event-stream; charset=utf-8"},
            )
        drawn = self.fault_driver.draw()
        await asyncio.sleep(drawn.delay_s)
        effects = FaultEffects(drawn.fault, request, self.fault_driver)
        if (instead := effects.instead_of_work()) is not None:
            return instead
        self._check_queue(len(job.request.outputs))
        only_end = not job.stream and drawn.fault is None
        await self.transfers.fetch(job.request)
        progress = self.driver.submit(job.request, only_end=only_end, rank=rank)
        try:
            if job.stream:
                return await self._stream(request, job, progress, effects)
            while progress.unfinished:
                await progress.changed()
                if effects.is_due(progress):
                    return await effects.replace_answer(self.driver, progress)
            cached = progress.cached_tokens if self.config.enable_prompt_tokens_details else None
            return _json(response_body(job, self._fingerprint, cached, progress.times))
        finally:
            self.driver.close(progress)

    def _pooling(self, make_job: Callable[[bytes, ServedModel], PoolingJob]) -> Handler:
        """The handler of a route of vectors or scores."""
        served = ServedModel(
            name=self.config.served_model_name,
            context_tokens=self.config.max_model_len,
            pairs=self.config.task is ModelTask.SCORE,
            shortens=self.config.matryoshka,
        )

        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                job = make_job(await _body(request), served)
            except BadInput as error:
                raise bad_value(None, str(error)) from error
            except InputTooLong as error:
                limit = served.context_tokens
                raise prompt_too_long(error.tokens, limit, error.counted) from error
            if job.model and job.model != served.name:
                raise unknown_pooling_model(job.model)
            return await self._pool(request, job)

        return handler

    async def _pool(self, request: web.Request, job: PoolingJob) -> web.StreamResponse:
        """Computes the prompts, each a sequence of its own, and answers."""
        name = request.headers.get("X-Request-Id") or secrets.token_hex(8)
        drawn = self.fault_driver.draw()
        if drawn.delay_s:
            await asyncio.sleep(drawn.delay_s)
        effects = FaultEffects(drawn.fault, request, self.fault_driver)
        if (instead := effects.instead_of_work()) is not None:
            return instead
        self._check_queue(len(job.prompts))
        requests = job.requests(f"{job.prefix}-{name}-{secrets.token_hex(4)}")
        progresses = [self.driver.submit(each, only_end=True) for each in requests]
        try:
            for progress in progresses:
                while progress.unfinished:
                    await progress.changed()
            if effects.is_due(progresses[0]):
                return await effects.replace_answer(self.driver, progresses[0])
            return _json(job.answer(f"{job.prefix}-{name}", int(time.time())))
        finally:
            for progress in progresses:
                self.driver.close(progress)

    def _check_queue(self, sequences: int) -> None:
        most = self.config.max_num_queued_reqs
        if most is not None and self.engine.running + self.engine.waiting + sequences > most:
            self.queue_rejections += 1
            raise queue_full()

    async def _stream(
        self, request: web.Request, job: Job, progress: RequestProgress, effects: FaultEffects
    ) -> web.StreamResponse:
        config = self.config
        frames = Frames(job, self._fingerprint, config.enable_prompt_tokens_details)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        # A client that disconnects is no error of the server: its sequences are aborted.
        with contextlib.suppress(ClientConnectionResetError):
            await response.prepare(request)
            while progress.unfinished:
                await progress.changed()
                data = frames.advance(truncated(progress.tokens, effects.after_tokens))
                if effects.is_due(progress):
                    if data:
                        await response.write(data)
                    await effects.break_stream(response, self.driver, progress)
                    break
                if not progress.unfinished:
                    data += frames.end(progress.cached_tokens, progress.times)
                    self.driver.close(progress)
                if data:
                    await response.write(data)
            await response.write_eof()
        return response


async def _body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        text = "Unsupported Media Type: Only 'application/json' is allowed"
        raise Refused(400, "Bad Request", f"1 validation error:\n  {text}")
    return await request.read()


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


@contextlib.asynccontextmanager
async def simulated_vllm(
    config: SimulatedVllmConfig, die: Callable[[], None] | None = None
) -> AsyncIterator[SimulatedVllm]:
    """Serves until the block is left. Streams that are open then are cut off.

    `die`: called by the fault "crash"; without it, a crash closes all connections and the listener.
    Raises ValueError if the configuration contradicts itself, OSError if it cannot listen.
    """
    server = SimulatedVllm(config, die)
    listener = Listener(server.application(), config.host, config.port)
    await listener.start()
    server.url = listener.url
    async with asyncio.TaskGroup() as group:
        # A failure of one of the loops ends the block.
        steps = group.create_task(server.driver.run())
        try:
            faults = group.create_task(server.fault_driver.run(listener))
            try:
                yield server
            finally:
                faults.cancel()
        finally:
            await listener.stop()
            steps.cancel()
