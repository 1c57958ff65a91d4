"""The gateway's queue by class, as the gateway tells it: who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration

from moegate.v1 import generation_pb2, usage_pb2, usage_pb2_grpc

INTERVAL_S = 0.5
AGAIN_S = 1.0
_NAMES = {
    generation_pb2.SLO_CLASS_INTERACTIVE: "interactive",
    generation_pb2.SLO_CLASS_STANDARD: "standard",
    generation_pb2.SLO_CLASS_BATCH: "batch",
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """Requests of one class that wait, and the wait of the oldest in seconds."""

    slo_class: str
    requests: int
    oldest_s: float


class QueueWatch:
    """Follows the queue. `most_batch`: the look at which most batch requests waited, none before
    the first."""

    def __init__(self, channel: grpc.aio.Channel, operator_key: str) -> None:
        self._stub = usage_pb2_grpc.UsageServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {operator_key}"),)
        self.now: Sequence[Waiting] = ()
        self.most_batch: Sequence[Waiting] = ()

    async def run(self) -> None:
        """Follows until cancelled; a watch that breaks is begun again."""
        request = usage_pb2.WatchFleetRequest(interval=Duration(nanos=int(INTERVAL_S * 1e9)))
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for told in self._stub.WatchFleet(request, metadata=self._metadata):
                    self._take(told)
            self.now = ()
            await asyncio.sleep(AGAIN_S)

    def _take(self, told: usage_pb2.WatchFleetResponse) -> None:
        found = [(_NAMES.get(queue.slo_class), queue) for queue in told.queues]
        self.now = [
            Waiting(name, queue.requests, queue.oldest_wait.ToTimedelta().total_seconds())
            for name, queue in found
            if name is not None
        ]
        if of_batch(self.now) > of_batch(self.most_batch):
            self.most_batch = self.now


def of_batch(waiting: Sequence[Waiting]) -> int:
    """Batch requests among them."""
    return sum(each.requests for each in waiting if each.slo_class == "batch")


def in_words(waiting: Sequence[Waiting]) -> str:
    """Such as `batch 12 (oldest 3.1 s), interactive 1 (oldest 0.1 s)`; empty: nobody waits."""
    return ", ".join(
        f"{each.slo_class} {each.requests} (oldest {each.oldest_s:.1f} s)"
        for each in sorted(waiting, key=lambda each: -each.requests)
    )
