"""Clients that go away: nothing of theirs stays behind, in the gateway or in the engine."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter

import grpc

from gateway.config.limits import LimitsConfig
from gateway.upstream.openai.client import OpenAIClient
from gateway.upstream.vllm.client import VllmClient
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import generation_pb2, inference_pb2
from tests import serving
from tests.serving import METADATA, Serving, chat_request, first_message, read_stream

STREAMS = 1000
AT_ONCE = 50


def busy_tasks() -> int:
    """Tasks but those of the simulated servers' idle connections."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum(name != "RequestHandler.start" for name in names)


async def tasks_when_idle(gateway: Serving) -> int:
    """Tasks of a gateway that has served: gRPC makes some at the first call of a method."""
    request = chat_request(max_output_tokens=1)
    await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    once = inference_pb2.GenerateOnceRequest(request=request)
    await gateway.stub.GenerateOnce(once, metadata=METADATA)
    return busy_tasks()


async def nothing_is_left(gateway: Serving, engines: list[SimulatedVllm], tasks: int) -> None:
    """Waits for the ends that are under way, then looks at everything that could leak."""
    core = gateway.gateway.scheduler.core
    await serving.until(lambda: gateway.gateway.pipeline.active_requests == 0)
    await serving.until(lambda: all(engine.open_requests == 0 for engine in engines))
    assert repr(core) == "<Scheduler: 0 queued, 0 running>"
    for state in core.placements:
        assert (state.sequences, state.kv_tokens) == (0, 0)
        assert (state.kv_reserved_tokens, state.pending) == (0, {})
    for engine in engines:
        assert (engine.engine.running, engine.engine.waiting) == (0, 0)
    for backend in gateway.gateway.parts.fleet.connections.clients.values():
        assert isinstance(backend, VllmClient | OpenAIClient)
        # Idle connections may stay for the next request; busy ones would be leaks.
        session = backend.session
        await serving.until(lambda session=session: session.busy_connections == 0)  # type: ignore[misc]
    gc.collect()
    await serving.until(lambda: busy_tasks() <= tasks)


async def test_a_thousand_streams_opened_and_cancelled_at_random_leave_nothing() -> None:
    rng = random.Random(20)
    ends: Counter[str] = Counter()
    engine = SimulatedVllmConfig(served_model_name="sim", speed=4.0, max_num_seqs=16)
    async with simulated_vllm(engine) as one, simulated_vllm(engine) as two:
        settings = serving.config(
            pools=[serving.pool([one.url, two.url], upstream_model="sim", max_num_seqs=16)],
            limits=LimitsConfig(queue_requests=AT_ONCE),
        )
        async with serving.serving(settings) as gateway:
            tasks = await tasks_when_idle(gateway)
            turn = asyncio.Semaphore(AT_ONCE)

            async def one_stream(number: int) -> None:
                """A client that leaves: before, in the queue, at the first token, in the middle."""
                async with turn:
                    request = chat_request(
                        f"story {number}", max_output_tokens=rng.choice([1, 20, 400])
                    )
                    if number % 5 == 0:
                        once = gateway.stub.GenerateOnce(
                            inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
                        )
                        await asyncio.sleep(rng.random() * 0.1)
                        ends["cancelled" if once.cancel() else "done"] += 1
                        return
                    call = gateway.stub.Generate(request, metadata=METADATA)
                    patience = rng.choice([0, 1, 3, 10_000])
                    await asyncio.sleep(rng.choice([0, 0, rng.random() * 0.1]))
                    try:
                        for _ in range(patience):
                            message = await call.read()
                            if message is grpc.aio.EOF:
                                ends["done"] += 1
                                return
                            assert isinstance(message, generation_pb2.GenerateResponse)
                    except grpc.aio.AioRpcError as error:
                        ends[error.code().name] += 1
                        return
                    call.cancel()
                    ends["cancelled"] += 1

            await asyncio.gather(*(one_stream(number) for number in range(STREAMS)))
            await nothing_is_left(gateway, [one, two], tasks)
    assert sum(ends.values()) == STREAMS
    assert ends["cancelled"] > STREAMS / 4, ends
    assert ends["done"] > STREAMS / 20, ends
    assert set(ends) <= {"cancelled", "done", "RESOURCE_EXHAUSTED"}, ends


async def test_a_client_that_leaves_the_queue_frees_its_seat() -> None:
    engine = SimulatedVllmConfig(served_model_name="sim", speed=1.0)
    async with simulated_vllm(engine) as slow:
        settings = serving.config(
            pools=[serving.pool([slow.url], upstream_model="sim", max_num_seqs=1)],
            limits=LimitsConfig(queue_requests=2),
        )
        async with serving.serving(settings) as gateway:
            tasks = await tasks_when_idle(gateway)
            scheduler = gateway.gateway.scheduler.core
            long = chat_request(max_output_tokens=4000, ignore_eos=True)
            running = gateway.stub.Generate(long, metadata=METADATA)
            await running.read()
            waiting = [gateway.stub.Generate(long, metadata=METADATA) for _ in range(2)]
            await serving.until(lambda: scheduler.queued_requests == 2)
            waiting[0].cancel()
            await serving.until(lambda: scheduler.queued_requests == 1)
            running.cancel()
            # The place goes to the one that still waits.
            assert (await first_message(waiting[1])).delta.choices
            waiting[1].cancel()
            await nothing_is_left(gateway, [slow], tasks)


async def test_a_cancelled_stream_stops_the_engine_at_once() -> None:
    engine = SimulatedVllmConfig(served_model_name="sim", speed=1.0)
    async with simulated_vllm(engine) as slow:
        settings = serving.config(pools=[serving.pool([slow.url], upstream_model="sim")])
        async with serving.serving(settings) as gateway:
            tasks = await tasks_when_idle(gateway)
            request = chat_request(max_output_tokens=4000, ignore_eos=True)
            call = gateway.stub.Generate(request, metadata=METADATA)
            await call.read()
            assert slow.open_requests == 1
            call.cancel()
            await nothing_is_left(gateway, [slow], tasks)
