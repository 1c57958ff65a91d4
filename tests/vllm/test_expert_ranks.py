"""The experts of a real vLLM with two data-parallel ranks, whose routers see both ranks' tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from tests import serving
from tests.vllm.launch import ENGINE_KEY, VllmProcess, running_vllm, unsupported_cpu


@pytest.fixture(scope="module")
def counting_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    """A server with two ranks that counts experts."""
    if reason := unsupported_cpu():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("ranks")
    with running_vllm(folder, data_parallel_size=2, plugin=True, experts=True) as server:
        yield server


async def test_each_rank_tells_the_experts_of_its_own_tokens(counting_ranks: VllmProcess) -> None:
    """The routers see the tokens of both ranks together: each rank counts its own."""
    seen: dict[int, list[tuple[int, float]]] = {0: [], 1: []}
    cursors: dict[str, int] = {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:

        async def run(rank: int, sequences: int) -> None:
            body = {
                "model": counting_ranks.model,
                "prompt": [[200 + 7 * one + i for i in range(20)] for one in range(sequences)],
                "max_tokens": 30,
                "ignore_eos": True,
            }
            url = f"{counting_ranks.base_url}/v1/completions"
            headers = {"X-data-parallel-rank": str(rank)}
            async with http.post(url, json=body, headers=headers) as response:
                response.raise_for_status()

        async def read() -> None:
            """Asks one of the API servers."""
            query = {"after": [f"{instance}.{number}" for instance, number in cursors.items()]}
            headers = {"Authorization": f"Bearer {ENGINE_KEY}"}
            url = f"{counting_ranks.base_url}/moegate/steps"
            async with http.get(url, params=query, headers=headers) as response:
                answer = await response.json()
            cursors[answer["instance"]] = answer["next"]
            for row in answer.get("expert_steps", ()):
                step = dict(zip(answer["expert_fields"], row, strict=True))
                if not step["prefill_tokens"]:
                    seen[step["engine"]].append((step["tokens"], step["distinct"]))

        await asyncio.gather(run(0, 1), run(1, 3))
        async with asyncio.timeout(serving.READY_S):
            while not all(seen.values()):
                await read()
                await asyncio.sleep(0.3)
    assert {step for step in seen[0] if step[0] == 1} == {(1, 4.0)}
    threes = [distinct for tokens, distinct in seen[1] if tokens == 3]
    assert threes
    assert all(4.0 < distinct <= 12.0 for distinct in threes)
