"""What a streamed token costs the gateway over vLLM's HTTP and over its gRPC (`vllm.Inference`).

CPU time of this process, which is the client of both: over HTTP the gateway's own `VllmClient`,
which checks and counts everything; over gRPC the bare stub, which only reads. The same prompts, as
token ids, go to the same server by turns. The server is vLLM's front end in Rust, started apart:

    VLLM_USE_RUST_FRONTEND=1 vllm serve MODEL --port 8000 --grpc-port 8001
    python benchmarks/engine/vllm_inference.py http://127.0.0.1:8000 127.0.0.1:8001 MODEL
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc
from rich.console import Console
from rich.table import Table

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.generation import Generation, Sampling
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.vllm.client import VllmClient

PROTO = Path(__file__).with_suffix(".proto")
METHOD = "/vllm.Inference/GenerateStream"
PROMPT_TOKENS, OUTPUT_TOKENS = 64, 100
REQUESTS = 64
"""In all, for each way, number of streams and repeat."""

Way = Callable[[int], Awaitable[int]]
"""Streams the answer to the prompt of that number; returns its tokens."""


def messages() -> tuple[type[Any], type[Any]]:
    """The classes of the request and the response."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.binpb"
        protoc.main(["protoc", f"-I{PROTO.parent}", f"--descriptor_set_out={out}", PROTO.name])
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    request, response = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"vllm.{name}"))
        for name in ("GenerateRequest", "GenerateResponse")
    )
    return request, response


def prompt(number: int) -> tuple[int, ...]:
    """Token ids that no other prompt begins with."""
    return tuple(300 + (number * 37 + i * 11) % 1500 for i in range(PROMPT_TOKENS))


def over_http(client: VllmClient, model: str) -> Way:
    async def run(number: int) -> int:
        generation = Generation(
            request_id=f"http-{number}",
            model=model,
            input=prompt(number),
            max_output_tokens=OUTPUT_TOKENS,
            sampling=Sampling(temperature=0.0),
            ignore_eos=True,
        )
        tokens = 0
        deadline_s = asyncio.get_running_loop().time() + 600
        async for chunk in client.stream(generation, deadline_s=deadline_s):
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
        return tokens

    return run


def over_grpc(channel: grpc.aio.Channel, model: str) -> Way:
    request_type, response_type = messages()
    call = channel.unary_stream(METHOD, request_type.SerializeToString, response_type.FromString)

    async def run(number: int) -> int:
        request = request_type(request_id=f"grpc-{number}", model=model, temperature=0.0)
        request.token_ids.ids.extend(prompt(number))
        request.stopping.max_new_tokens = OUTPUT_TOKENS
        request.stopping.ignore_eos = True
        tokens, texts = 0, []
        async for response in call(request, timeout=600):
            tokens += response.outputs.num_tokens
            texts.append(response.outputs.text)
        return tokens

    return run


async def cpu_per_token(way: Way, streams: int) -> float:
    """Microseconds of this process's CPU for each token, with so many streams at once."""
    numbers = iter(range(REQUESTS))

    async def worker() -> int:
        return sum([await way(number) for number in numbers])

    began_s = time.process_time()
    tokens = sum(await asyncio.gather(*(worker() for _ in range(streams))))
    assert tokens == REQUESTS * OUTPUT_TOKENS, tokens
    return (time.process_time() - began_s) / tokens * 1e6


async def measure(args: argparse.Namespace) -> None:
    table = Table(title=f"CPU of the client per token, µs (median of {args.repeats})")
    for column in ("streams", "HTTP, VllmClient", "gRPC, bare stub", "gRPC / HTTP"):
        table.add_column(column, justify="right")
    async with (
        HttpSession() as session,
        grpc.aio.insecure_channel(args.grpc) as channel,
    ):
        client = VllmClient(
            session=session,
            base_url=args.url,
            upstream_model=args.model,
            api_key=None,
            timeouts=TimeoutsConfig(),
        )
        ways = (over_http(client, args.model), over_grpc(channel, args.model))
        for streams in args.streams:
            for way in ways:
                await cpu_per_token(way, streams)  # warm
            seen: tuple[list[float], list[float]] = ([], [])
            for _ in range(args.repeats):
                for way, figures in zip(ways, seen, strict=True):
                    figures.append(await cpu_per_token(way, streams))
            http, own = (statistics.median(figures) for figures in seen)
            table.add_row(str(streams), f"{http:.0f}", f"{own:.0f}", f"{own / http:.2f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="of the HTTP API, without /v1")
    parser.add_argument("grpc", help="host:port of --grpc-port")
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
