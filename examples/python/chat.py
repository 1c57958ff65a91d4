"""A client for moegate in one page: streams the answer to one prompt.

    python examples/python/chat.py 127.0.0.1:50051 MODEL "Why is the sky blue?"

The key comes from the environment variable MOEGATE_API_KEY.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from moegate.v1 import chat_pb2, generation_pb2, inference_pb2_grpc

# Retries for a server that is down or full. They never repeat a stream that has begun, and they
# wait as long as the server asks (grpc-retry-pushback-ms).
SERVICE_CONFIG = (Path(__file__).parent.parent / "service_config.json").read_text()
DEADLINE_S = 120.0


async def chat(target: str, model: str, prompt: str, key: str) -> None:
    """Prints the answer as it comes, then one line about it."""
    request = generation_pb2.GenerateRequest(
        model=model,
        chat=chat_pb2.ChatInput(
            messages=[
                chat_pb2.ChatMessage(
                    role=chat_pb2.ROLE_USER, parts=[chat_pb2.ContentPart(text=prompt)]
                )
            ]
        ),
        max_output_tokens=64,
        slo=generation_pb2.Slo(slo_class=generation_pb2.SLO_CLASS_INTERACTIVE),
    )
    options = [("grpc.service_config", SERVICE_CONFIG)]
    async with grpc.aio.insecure_channel(target, options) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        metadata = (("authorization", f"Bearer {key}"),)
        async for event in stub.Generate(request, metadata=metadata, timeout=DEADLINE_S):
            if event.HasField("done"):  # always the last message
                usage, route, cost = event.done.usage, event.done.route, event.done.cost
                known = cost.HasField("metered_nano_usd")
                print(f"\n{usage.prompt_tokens} tokens in, {usage.completion_tokens} out", end="")
                print(f", ran on {route.target} ({route.reason})", end="")
                print(f", cost ${cost.metered_nano_usd / 1e9:.9f}" if known else ", cost unknown")
            for choice in event.delta.choices:
                print(choice.text, end="", flush=True)


def explain(error: grpc.aio.AioRpcError) -> str:
    """What went wrong, with what google.rpc says beyond the message."""
    text = f"{error.code().name}: {error.details()}"
    # The function takes any call; its annotation knows only the synchronous ones.
    status = rpc_status.from_call(error)  # type: ignore[arg-type, unused-ignore]
    for detail in status.details if status else ():
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            text += f" (try again in {retry.retry_delay.ToMilliseconds() / 1000:.1f} s)"
    return text


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    _, address, model_name, text = sys.argv
    try:
        asyncio.run(chat(address, model_name, text, os.environ.get("MOEGATE_API_KEY", "")))
    except grpc.aio.AioRpcError as error:
        sys.exit(explain(error))
