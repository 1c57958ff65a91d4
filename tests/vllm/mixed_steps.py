"""Records single steps of a real vLLM in which prompts are computed beside sequences that decode.

    python -m tests.vllm.mixed_steps tests/golden/vllm_0_32/mixed_steps.json

starts the tiny model's server with the plugin, and writes a row for each step that its feed tells:
the columns of `COLUMNS`. `tests/scheduler/step_time/test_mixed_steps.py` reads them.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from gateway.config.gateway import TimeoutsConfig
from gateway.fleet.engine_feed import EngineFeed
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.vllm.client import VllmClient
from scheduler.engine_steps import EngineSteps
from tests.vllm.launch import ENGINE_KEY, VllmProcess, running_vllm

COLUMNS = ("took_s", "sequences", "prefills", "prefill_tokens")
BATCHES = (1, 2, 4, 8, 16, 24)
PROMPTS = (32, 64, 128, 256, 512, 1024, 1800)
"""Each fits into one step: the CPU build computes at most 2,048 tokens in one."""
LAPS = 6
"""A shared machine stalls now and then."""
DECODES_KEPT = 20
"""Of the steps without a prompt one in so many is written."""
OUTPUT_TOKENS = 500


async def record(server: VllmProcess) -> list[list[float]]:
    """The steps of all batches with all prompts, of prompts alone, and of decodes alone."""
    rng, events = random.Random(1), list[EngineSteps]()
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout) as session, HttpSession() as upstream:
        client = VllmClient(
            session=upstream,
            base_url=server.base_url,
            upstream_model=server.model,
            api_key=ENGINE_KEY,
            timeouts=TimeoutsConfig(),
        )
        feed = EngineFeed("vllm", "vllm", time.monotonic)

        def prompt(tokens: int) -> list[int]:
            return [rng.randrange(100, 1990) for _ in range(tokens)]

        async def post(prompts: list[list[int]], output_tokens: int) -> None:
            body = {
                "model": server.model,
                "prompt": prompts,
                "max_tokens": output_tokens,
                "temperature": 0.0,
                "ignore_eos": True,
            }
            url = f"{server.base_url}/v1/completions"
            async with session.post(url, json=body) as response:
                response.raise_for_status()
                await response.read()

        await post([prompt(32) for _ in range(4)], 20)  # warms up
        await feed.read(client, lambda _: None)
        for _ in range(LAPS):
            for batch in (0, *BATCHES):
                decodes = [prompt(24) for _ in range(batch)]
                beside = asyncio.create_task(post(decodes, OUTPUT_TOKENS)) if batch else None
                for tokens in rng.sample(PROMPTS, len(PROMPTS)):
                    await asyncio.sleep(0.03)
                    await post([prompt(tokens)], 1)
                    await feed.read(client, events.append)
                if beside is not None:
                    await beside
                await feed.read(client, events.append)
    steps = [step for event in events for step in event.steps if step.took_s > 0]
    return [
        [round(step.took_s, 6), step.sequences, step.prefills, step.prefill_tokens]
        for at, step in enumerate(steps)
        if step.prefills or at % DECODES_KEPT == 0
    ]


def main(path: Path) -> None:
    """Writes the recording."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_vllm(Path(folder), plugin=True) as server,
    ):
        rows = asyncio.run(record(server))
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f'{{"columns": {json.dumps(COLUMNS)}, "steps": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
