"""The floor: a bare grpc.aio server that answers the same messages and does nothing else."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from moegate.v1 import generation_pb2, inference_pb2, inference_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Echo:
    """Streams words at a pace; answers a unary call at once."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s

    def __getattr__(self, name: str) -> None:
        """The other methods are not there."""

    async def Generate(self, request: generation_pb2.GenerateRequest, context: Context) -> None:
        """As many words as asked for."""
        for _ in range(request.max_output_tokens):
            if self._interval_s:
                await asyncio.sleep(self._interval_s)
            choice = generation_pb2.ChoiceDelta(text=" word")
            delta = generation_pb2.Delta(choices=[choice])
            await context.write(generation_pb2.GenerateResponse(delta=delta))
        await context.write(generation_pb2.GenerateResponse(done=generation_pb2.Done()))

    async def GenerateOnce(
        self, request: inference_pb2.GenerateOnceRequest, context: Context
    ) -> inference_pb2.GenerateOnceResponse:
        """Nothing."""
        return inference_pb2.GenerateOnceResponse()


async def serve(interval_s: float) -> None:
    """Serves until killed."""
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Echo(interval_s), server)  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1])))
