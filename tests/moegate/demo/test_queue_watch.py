"""The demo's view of the gateway's queue, against a real gateway whose only server is busy."""

from __future__ import annotations

import asyncio

from gateway.config.gateway import KeyConfig, KeyRole
from gateway.config.resolve.api_keys import key_sha256
from moegate.demo.queue_watch import QueueWatch, Waiting, in_words, of_batch
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.v1 import generation_pb2
from tests import serving
from tests.serving import METADATA, Serving, chat_request, first_message


def request(slo_class: generation_pb2.SloClass) -> generation_pb2.GenerateRequest:
    made = chat_request(max_output_tokens=400, ignore_eos=True)
    made.slo.slo_class = slo_class
    return made


async def test_batch_is_seen_to_wait_for_people() -> None:
    engine = SimulatedVllmConfig(served_model_name=serving.MODEL, max_num_seqs=1)
    operator = KeyConfig(id="op", sha256=key_sha256("mg-op"), role=KeyRole.OPERATOR)
    async with simulated_vllm(engine) as server:
        pool = serving.pool([server.url], max_num_seqs=1)
        config = serving.config(pools=[pool], keys=[operator])
        async with serving.serving(config) as made:
            await batch_is_seen_to_wait(made)


async def batch_is_seen_to_wait(made: Serving) -> None:
    watch = QueueWatch(made.channel, "mg-op")
    watching = asyncio.create_task(watch.run())
    running = made.stub.Generate(request(generation_pb2.SLO_CLASS_INTERACTIVE), metadata=METADATA)
    await first_message(running)
    waiting = [
        made.stub.Generate(request(slo_class), metadata=METADATA)
        for slo_class in (generation_pb2.SLO_CLASS_BATCH, generation_pb2.SLO_CLASS_BATCH)
    ]
    await serving.until(lambda: of_batch(watch.now) == 2)
    assert in_words(watch.now).startswith("batch 2 (oldest ")
    for call in (*waiting, running):
        call.cancel()
    await serving.until(lambda: not watch.now)
    assert of_batch(watch.most_batch) == 2
    watching.cancel()


def test_most_come_first() -> None:
    some = [Waiting("interactive", 1, 0.04), Waiting("batch", 12, 3.14)]
    assert in_words(some) == "batch 12 (oldest 3.1 s), interactive 1 (oldest 0.0 s)"
    assert in_words([]) == ""
