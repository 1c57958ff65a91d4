"""The order of a job's items at a real vLLM: prefix hits by the engine's own counters, and the
distinct experts of its steps as the plugin tells them.

A gateway runs the same job three times on the tiny MoE of the tests (vLLM's CPU build): in the
order of its file, by prefix and sketch, and by prefix and the experts that it learnt from an
earlier job. The prefix cache holds a few of the system prompts. Each run has system prompts of its
own. The weights of the model are random, so that its answers are not of the domain of their text.

    MOEGATE_VLLM_VENV=.venv-vllm python -m benchmarks.batch.order_vllm --items 300
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from unittest.mock import patch

import aiohttp
import msgspec

from gateway.config.gateway import SecretConfig
from gateway.upstream.vllm.steps_feed import parse_steps
from moegate.v1 import batch_pb2, batch_pb2_grpc
from moegate.vllm_plugin.expert_pull import EVERY_S
from scheduler.engine_steps import ExpertStep
from scheduler.prefix.expert_affinity import ExpertTable
from scheduler.prefix.item_order import order_items
from tests import serving
from tests.serving import METADATA, MODEL, Serving
from tests.vllm.launch import ENGINE_KEY, VllmProcess, running_vllm

DOMAINS, SYSTEMS, WORDS = 6, 16, 60
SYSTEM_WORDS, TEXT_WORDS, OUTPUT_TOKENS = 160, 60, 24
SEQUENCES = 8
CACHE_BLOCKS = 72
"""Of 128 tokens: the running sequences, and a few system prompts."""
CONTEXT_TOKENS = 4096
LEARNT_ITEMS = 200
WORKLOAD_SEED = 11


@dataclass
class Counters:
    """What the engine has counted since the last look."""

    server: VllmProcess
    session: aiohttp.ClientSession
    cursor: str = ""
    steps: list[ExpertStep] = field(default_factory=list)

    async def read_steps(self) -> None:
        """Takes the steps that are told so far."""
        headers = {"Authorization": f"Bearer {ENGINE_KEY}"}
        more = True
        while more:
            url, query = f"{self.server.base_url}/moegate/steps", {"after": self.cursor}
            async with self.session.get(url, params=query, headers=headers) as response:
                answer = parse_steps(await response.read(), time.monotonic())
            self.cursor, more = f"{answer.instance}.{answer.next}", answer.more
            if answer.experts is not None:
                self.steps += answer.experts.steps

    async def prefix(self) -> tuple[float, float]:
        """Prompt tokens found in the prefix cache, and looked for."""
        async with self.session.get(f"{self.server.base_url}/metrics") as response:
            text = await response.text()
        hits, queries = (
            float(re.findall(rf"^vllm:prefix_cache_{name}_total{{.*}} (\S+)$", text, re.M)[0])
            for name in ("hits", "queries")
        )
        return hits, queries


@contextlib.asynccontextmanager
async def reading(counters: Counters) -> AsyncIterator[None]:
    """Reads steps beside the job, before the feed drops them."""

    async def read() -> None:
        while True:
            await counters.read_steps()
            await asyncio.sleep(0.5)

    task = asyncio.create_task(read())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(2):  # a fetch that began now has been told then
            await asyncio.sleep(EVERY_S + 0.1)
            await counters.read_steps()


def lines(count: int, shared: float, name: str, seed: int) -> bytes:
    """A file of items in chance order. `shared`: part of the words that all domains have in common;
    `name`: of the run, in its system prompts."""
    vocabulary = random.Random(WORKLOAD_SEED)

    def words() -> list[str]:
        return [
            "".join(vocabulary.choice("bdfgklmnprst") + vocabulary.choice("aeiou") for _ in "123")
            for _ in range(WORDS)
        ]

    common, own = words(), [words() for _ in range(DOMAINS)]
    chance = random.Random(seed)
    systems = [
        f"{name} {number}: " + " ".join(chance.choices(common, k=SYSTEM_WORDS))
        for number in range(SYSTEMS)
    ]
    made = []
    for number in range(count):
        domain = chance.randrange(DOMAINS)
        text = " ".join(
            chance.choice(common if chance.random() < shared else own[domain])
            for _ in range(TEXT_WORDS)
        )
        messages = [
            {"role": "system", "content": chance.choice(systems)},
            {"role": "user", "content": text},
        ]
        body = {
            "model": MODEL,
            "messages": messages,
            "max_tokens": OUTPUT_TOKENS,
            "temperature": 1.0,
        }
        line = {"custom_id": f"i{number}", "method": "POST", "url": "/v1/chat/completions"}
        made.append(msgspec.json.encode({**line, "body": body}))
    return b"\n".join(made)


async def run_job(gateway: Serving, content: bytes) -> None:
    """Runs a job to its end."""
    stub = batch_pb2_grpc.BatchServiceStub(gateway.channel)
    pieces = [content[at : at + 1_000_000] for at in range(0, len(content), 1_000_000)]
    messages = [batch_pb2.SubmitBatchRequest(openai_lines=piece) for piece in pieces]
    messages[0].endpoint = "/v1/chat/completions"
    submitted = await stub.SubmitBatch(iter(messages), metadata=METADATA)
    asked = batch_pb2.StreamBatchResultsRequest(batch_id=submitted.batch.batch_id)
    async for _ in stub.StreamBatchResults(asked, metadata=METADATA):
        pass
    state = batch_pb2.GetBatchRequest(batch_id=submitted.batch.batch_id)
    batch = (await stub.GetBatch(state, metadata=METADATA)).batch
    assert batch.failed == 0, f"{batch.failed} of {batch.requests} failed"


def in_file_order(beginnings: Sequence[bytes], table: ExpertTable | None = None) -> list[int]:
    """Arrival order."""
    return list(range(len(beginnings)))


def by_sketch(beginnings: Sequence[bytes], table: ExpertTable | None = None) -> list[int]:
    """The lane's order while no experts are known."""
    return order_items(beginnings)


ORDERS = {"arrival": in_file_order, "sketch": by_sketch, "experts": order_items}


async def measure(server: VllmProcess, items: int, shared: float, name: str) -> str:
    """Runs the job in one order. Returns a row of the table."""
    pool = msgspec.structs.replace(
        serving.pool([server.base_url], upstream_model=server.model, max_num_seqs=SEQUENCES),
        api_key=SecretConfig(env="MOEGATE_BENCHMARK_ENGINE_KEY"),
    )
    with patch("gateway.batch_lane.order_items", ORDERS[name]):
        async with (
            serving.serving(serving.config(pools=[pool])) as gateway,
            aiohttp.ClientSession() as session,
        ):
            learnt = gateway.gateway.lane.experts
            if name == "experts":
                for number in range(2):  # the first tells that experts are told
                    await run_job(gateway, lines(LEARNT_ITEMS, shared, f"before {number}", number))
                    await serving.until(lambda: learnt.is_told)
                await serving.until(lambda: learnt.observed("team", MODEL) > LEARNT_ITEMS // 2)
            counters = Counters(server, session)
            await counters.read_steps()
            counters.steps.clear()
            before, began_s = await counters.prefix(), time.monotonic()
            async with reading(counters):
                await run_job(gateway, lines(items, shared, name, 100))
                took_s = time.monotonic() - began_s
                after = await counters.prefix()
    hits, queries = (now - then for now, then in zip(after, before, strict=True))
    decoding: dict[int, list[float]] = {}
    for step in counters.steps:
        if not step.prefill_tokens:
            decoding.setdefault(step.tokens, []).append(step.distinct)
    by_batch = "  ".join(
        f"{batch}: {mean(found):.2f} ({len(found)})"
        for batch, found in sorted(decoding.items())
        if batch > 1
    )
    return f"{shared:6.1f}  {name:8} {hits / queries:10.1%}  {took_s:6.1f}  {by_batch}"


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--shared", type=float, default=0.0)
    parser.add_argument("--router-skew", type=float, default=0.0)
    args = parser.parse_args()
    os.environ["MOEGATE_BENCHMARK_ENGINE_KEY"] = ENGINE_KEY
    print("shared  order    prefix hits     s  distinct experts by sequences that decode (steps)")
    with (
        tempfile.TemporaryDirectory(prefix="moegate-order-") as folder,
        running_vllm(
            Path(folder),
            (
                f"--num-gpu-blocks-override={CACHE_BLOCKS}",
                f"--max-model-len={CONTEXT_TOKENS}",
            ),
            plugin=True,
            experts=True,
            router_skew=args.router_skew,
        ) as server,
    ):
        for name in ORDERS:
            print(asyncio.run(measure(server, args.items, args.shared, name)), flush=True)


if __name__ == "__main__":
    main()
