"""Honest tenants: their requests, and what their clients see of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from benchmarks.hostile.callers import ask
from moegate.v1 import inference_pb2_grpc

HONEST = ("mg-honest-a", "mg-honest-b")
REQUESTS_PER_S = 2.0
TTFT_S, TPOT_S = 3.0, 0.1


@dataclass(slots=True)
class Phase:
    """What became of the honest requests of one half. `charged_nano_usd`: by request
    id, as told by `done`."""

    ends: Counter[str] = field(default_factory=Counter)
    within_slo: int = 0
    charged_nano_usd: dict[str, int] = field(default_factory=dict)
    ttfts_s: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Requests within their SLO, of all."""
        return self.within_slo / max(1, self.ends.total())


async def honest_request(
    stub: inference_pb2_grpc.InferenceServiceAsyncStub,
    key: str,
    text: str,
    tokens: int,
    into: Phase,
) -> None:
    """One request, judged as its client sees it."""
    began_s = time.monotonic()
    first_s: float | None = None
    done = None
    try:
        async for message in stub.Generate(
            ask(text, tokens),
            metadata=(("authorization", f"Bearer {key}"),),
            timeout=120,
        ):
            if first_s is None:
                first_s = time.monotonic()
            if message.HasField("done"):
                done = message.done
    except grpc.aio.AioRpcError as error:
        into.ends[_reason(error)] += 1
        return
    if done is None or first_s is None or not done.usage.completion_tokens:
        into.ends["incomplete"] += 1
        return
    into.ends["OK"] += 1
    into.charged_nano_usd[done.request_id] = done.cost.charged_nano_usd
    into.ttfts_s.append(first_s - began_s)
    tpot_s = (time.monotonic() - first_s) / max(1, done.usage.completion_tokens - 1)
    into.within_slo += first_s - began_s <= TTFT_S and tpot_s <= TPOT_S


def _reason(error: grpc.aio.AioRpcError) -> str:
    """The reason of a failure, by the details of the status."""
    status = rpc_status.from_call(error)
    for packed in () if status is None else status.details:
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info):
            return str(info.reason)
    return str(error.code().name)


async def honest_load(address: str, seconds: float, seed: int) -> Phase:
    """Requests at random times; the same ones for the same seed."""
    rng = random.Random(seed)
    phase = Phase()
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        began_s, at_s = time.monotonic(), 0.0
        while (at_s := at_s + rng.expovariate(REQUESTS_PER_S)) < seconds:
            text = " ".join(f"word{rng.randrange(1000)}" for _ in range(rng.randrange(20, 400)))
            arguments = (rng.choice(HONEST), text, rng.randrange(20, 200))
            await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
            group.create_task(honest_request(stub, *arguments, phase))
    return phase
