"""Callers that do harm, as one process: `run.py` runs it beside honest ones.

    python -m benchmarks.hostile.callers ADDRESS SECONDS SEED

They ask for tight service levels, leave streams unread, come in bursts, send malformed and huge
messages with and without a key, a prompt that kills engines, and requests to a remote that lies.
Prints what became of their RPCs.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import uvloop
from google.protobuf.duration_pb2 import Duration

from benchmarks.hostile.messages import hostile
from benchmarks.hostile.servers import FAR, MODEL, POISON
from moegate.v1 import (
    chat_pb2,
    generation_pb2,
    inference_pb2,
    inference_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

KEYS = tuple(f"mg-hostile-{number}" for number in range(4))
GENERATE = "/moegate.v1.InferenceService/Generate"
BURST = 300
UNREAD = 8
MESSAGES_AT_LEAST_S = 2.0
"""Pause between two huge messages: this process makes them on the same computer."""
SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))


def ask(text: str, tokens: int, **fields: object) -> generation_pb2.GenerateRequest:
    """A chat of one message."""
    message = chat_pb2.ChatMessage(role=chat_pb2.ROLE_USER, parts=[chat_pb2.ContentPart(text=text)])
    return generation_pb2.GenerateRequest(
        model=str(fields.pop("model", MODEL)),
        chat=chat_pb2.ChatInput(messages=[message]),
        max_output_tokens=tokens,
        **fields,  # type: ignore[arg-type]
    )


class Callers:
    """The hostile callers of one gateway. `ends`: RPCs by caller and status."""

    def __init__(self, address: str, seed: int) -> None:
        self._address = address
        self._random = random.Random(seed)
        self.ends: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Does harm for a while."""
        options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.insecure_channel(self._address, options=options) as channel:
            self._channel = channel
            self._stub = inference_pb2_grpc.InferenceServiceStub(channel)
            kinds = (self.tight, self.burst, self.message, self.poison, self.lied_to, self.others)
            tasks = [asyncio.create_task(self._again(kind)) for kind in (*kinds, self.tight)]
            tasks += [asyncio.create_task(self._again(self.unread)) for _ in range(UNREAD)]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _again(self, kind: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await kind()
                end = "OK"
            except grpc.aio.AioRpcError as error:
                end = error.code().name
                await asyncio.sleep(0.05)
            self.ends[f"{kind.__name__} {end}"] += 1

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._random.choice(KEYS)}"),)

    async def tight(self) -> None:
        """A service level that nobody could keep beside others."""
        slo = generation_pb2.Slo(tpot=Duration(nanos=1_000_000))
        fields = self._random.choice(({"slo": slo}, {"priority": 2**31 - 1}, {}))
        async for _ in self._stub.Generate(
            ask("quick", 400, **fields), metadata=self._metadata(), timeout=60
        ):
            pass

    async def unread(self) -> None:
        """A stream that nobody reads, on a connection of its own."""
        options = (*SMALL_WINDOW, ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.insecure_channel(self._address, options=options) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            call = stub.Generate(
                ask("a long story", 4000, ignore_eos=True), metadata=self._metadata()
            )
            await asyncio.sleep(self._random.uniform(1.0, 40.0))
            call.cancel()

    async def burst(self) -> None:
        """Very many requests at once."""
        calls = [
            self._stub.GenerateOnce(
                inference_pb2.GenerateOnceRequest(request=ask(f"burst {number}", 50)),
                metadata=self._metadata(),
                timeout=30,
            )
            for number in range(BURST)
        ]
        for end in await asyncio.gather(*calls, return_exceptions=True):
            status = end.code().name if isinstance(end, grpc.aio.AioRpcError) else "OK"
            self.ends[f"of a burst {status}"] += 1
        await asyncio.sleep(self._random.uniform(5.0, 20.0))

    async def message(self) -> None:
        """All hostile messages, one after another; with and without a key."""
        for case in hostile():
            metadata = self._metadata() if self._random.random() < 0.7 else ()
            raw: Any = self._channel.unary_stream(GENERATE)
            call = raw(case.data, metadata=metadata, timeout=60, compression=case.compression)
            try:
                async for _ in call:
                    pass
                end = "OK"
            except grpc.aio.AioRpcError as error:
                end = error.code().name
            self.ends[f"message {end}"] += 1
            await asyncio.sleep(self._random.uniform(1, 3) * MESSAGES_AT_LEAST_S)

    async def poison(self) -> None:
        """The prompt that kills an engine, again and again."""
        await asyncio.sleep(self._random.uniform(10.0, 30.0))
        async for _ in self._stub.Generate(ask(POISON, 10), metadata=self._metadata(), timeout=30):
            pass

    async def lied_to(self) -> None:
        """A request that only the lying remote serves."""
        await asyncio.sleep(0.2)
        async for _ in self._stub.Generate(
            ask("far", 16, model=FAR), metadata=self._metadata(), timeout=30
        ):
            pass

    async def others(self) -> None:
        """RPCs that cost work and no tokens."""
        await asyncio.sleep(0.02)
        usage = usage_pb2_grpc.UsageServiceStub(self._channel)
        text = "count " * self._random.choice((1, 1000, 50_000))
        match self._random.randrange(3):
            case 0:
                count = inference_pb2.CountTokensRequest(request=ask(text, 1))
                await self._stub.CountTokens(count, metadata=self._metadata(), timeout=30)
            case 1:
                quote = inference_pb2.QuoteRequest(request=ask(text, 1))
                await self._stub.Quote(quote, metadata=self._metadata(), timeout=30)
            case _:
                spend = usage_pb2.GetSpendRequest(
                    group_by=[usage_pb2.SPEND_GROUP_SESSION, usage_pb2.SPEND_GROUP_HOUR]
                )
                await usage.GetSpend(spend, metadata=self._metadata(), timeout=30)


async def main() -> None:
    """Runs the callers, and prints their ends."""
    address, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    callers = Callers(address, seed)
    await callers.run(seconds)
    for name, number in sorted(callers.ends.items()):
        print(f"  {name}: {number:,}", flush=True)


if __name__ == "__main__":
    uvloop.run(main())
