"""The experts that a real vLLM's routers choose, as the plugin counts them, and the law of them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import aiohttp
import pytest

from gateway.upstream.vllm.steps_feed import parse_steps
from moegate.up.engine_plugin import make_plugin_folder
from moegate.vllm_plugin.expert_pull import EVERY_S
from moegate.vllm_plugin.experts import MOST_KEPT
from moegate.vllm_plugin.signatures import MOST_ENDED, MOST_EXPERTS, MOST_LAYERS
from scheduler.engine_steps import ExpertStep
from scheduler.step_time.expert_law import ExpertCounts
from tests.vllm.launch import ENGINE_KEY, VllmProcess, running_vllm, vllm_venv

EXPERTS, PER_TOKEN = 16, 4
LEARNT = (1, 2, 4, 8, 16)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)
ROUNDS, OUTPUT_TOKENS = 16, 25
"""Many short answers: the tokens of one answer choose alike, so that long ones say little more."""


@pytest.fixture(scope="module", params=[0.0, 4.0, 12.0], ids=lambda skew: f"skew {skew:g}")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmProcess, float]]:
    folder = tmp_path_factory.mktemp("experts")
    with running_vllm(folder, plugin=True, experts=True, router_skew=request.param) as running:
        yield running, request.param


@dataclass
class Asked:
    """A server that counts, and what its feed has told."""

    server: VllmProcess
    session: aiohttp.ClientSession
    cursor: str = ""
    sent: int = 0
    steps: list[ExpertStep] = field(default_factory=list)
    signatures: list[dict[str, Any]] = field(default_factory=list)

    async def run(self, batch: int) -> None:
        """So many sequences as one request, so that they step together."""
        self.sent += 1
        body = {
            "model": self.server.model,
            "prompt": [
                [(self.sent * 37 + one * 41 + i * (11 + one)) % 1900 + 100 for i in range(32)]
                for one in range(batch)
            ],
            "max_tokens": OUTPUT_TOKENS,
            "temperature": 1.0,
            "seed": self.sent,
            "ignore_eos": True,
        }
        url, headers = f"{self.server.base_url}/v1/completions", {"X-Request-Id": f"r{self.sent}"}
        async with self.session.post(url, json=body, headers=headers) as response:
            response.raise_for_status()
            await response.read()

    async def read(self) -> None:
        """Asks until a fetch that began now has been told."""
        for _ in range(2):
            await asyncio.sleep(EVERY_S + 0.1)
            while await self._answer():
                pass

    async def _answer(self) -> bool:
        headers = {"Authorization": f"Bearer {ENGINE_KEY}"}
        url, query = f"{self.server.base_url}/moegate/steps", {"after": self.cursor}
        async with self.session.get(url, params=query, headers=headers) as response:
            text, raw = await response.read(), await response.json()
        answer = parse_steps(text, time.monotonic())
        self.cursor = f"{answer.instance}.{answer.next}"
        if answer.experts is not None:
            assert (answer.experts.experts, answer.experts.experts_per_token) == (
                EXPERTS,
                PER_TOKEN,
            )
            self.steps += answer.experts.steps
            names = raw["signature_fields"]
            rows = raw["signatures"]
            self.signatures += [dict(zip(names, row, strict=True)) for row in rows]
        return answer.more


def uniform(tokens: int) -> float:
    return EXPERTS * (1.0 - (1.0 - PER_TOKEN / EXPERTS) ** tokens)


async def test_the_law_predicts_the_experts_of_a_step(
    server: tuple[VllmProcess, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts and no times: they do not depend on how busy the machine is. The prompts that are
    predicted are others than those that the law has learnt from."""
    running, skew = server
    async with aiohttp.ClientSession() as session:
        asked = Asked(running, session)
        for _ in range(ROUNDS):
            for batch in LEARNT:
                await asked.run(batch)
        await asked.read()
        counts = ExpertCounts(EXPERTS, PER_TOKEN)
        assert counts.observe(asked.steps)
        for signature in asked.signatures:
            layers = signature["experts"]
            assert 1 <= len(layers) <= MOST_LAYERS
            assert all(PER_TOKEN <= len(set(layer)) <= MOST_EXPERTS for layer in layers)
            assert all(0 <= expert < EXPERTS for layer in layers for expert in layer)
        last = [
            one
            for one in asked.signatures
            if one["id"].startswith(f"cmpl-r{ROUNDS * len(LEARNT)}-")
        ]
        assert [one["tokens"] for one in last] == [32 + OUTPUT_TOKENS - 1] * 16
        asked.steps.clear()
        for _ in range(ROUNDS):
            for batch in BATCHES:
                await asked.run(batch)
        await asked.read()
    seen: defaultdict[int, list[float]] = defaultdict(list)
    for step in asked.steps:
        if not step.prefill_tokens:
            seen[step.tokens].append(step.distinct)
    assert counts.law is not None
    observed = {batch: mean(seen[batch]) for batch in BATCHES}
    predicted = {batch: EXPERTS * counts.law.touched(batch) for batch in BATCHES}
    with capsys.disabled():
        for batch in BATCHES:
            miss, old = predicted[batch] / observed[batch], uniform(batch) / observed[batch]
            print(
                f"\nskew {skew:g}, batch {batch}: {observed[batch]:.2f} of {EXPERTS}, the law "
                f"{miss - 1.0:+.1%}, uniform {old - 1.0:+.1%}",
                end="",
            )
    assert set(seen[1]) == {float(PER_TOKEN)}
    for batch in BATCHES:
        assert predicted[batch] == pytest.approx(observed[batch], rel=0.03), batch
    if skew:
        assert uniform(8) > 1.1 * observed[8]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the counter told in the cases of `counter_cases.py`, without a server."""
    folder = make_plugin_folder(tmp_path_factory.mktemp("plugin"))
    ran = subprocess.run(
        [vllm_venv() / "bin" / "python", Path(__file__).with_name("counter_cases.py")],
        env={"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def test_the_counter_tells_each_step_once(counted: dict[str, Any]) -> None:
    # Tokens, those of prompts, distinct experts and the choices on each of four ranks, which hold
    # experts 0 and 1, 2 and 3, 4, 5. A request that has put out nothing is in its prompt.
    assert counted["steps"] == [
        [3, 2, 4.5, [3.5, 1.0, 1.0, 0.5]],
        [1, 1, 2.0, [1.0, 0.0, 0.0, 1.0]],
    ]
    assert counted["facts"] == [6, 2]
    assert counted["again"] == []
    assert counted["round robin"] == [[1, 0, 2.0, [1.0, 1.0, 0.0]]]


def test_a_data_parallel_rank_counts_its_own_tokens(counted: dict[str, Any]) -> None:
    # Gathered from both ranks before the routing, not gathered, and neither.
    assert counted["gathered"] == counted["own"] == [[3, 0, 3.0, None]]
    assert counted["unknown"] == []


def test_a_signature_is_of_the_requests_own_tokens(counted: dict[str, Any]) -> None:
    [[name, tokens, layers]] = counted["signatures"]
    assert (name, tokens) == ("b", 2)
    assert [set(layer) for layer in layers] == [{0, 1}, {2, 3, 4, 5}]
    steps, signatures = counted["no runner"]
    assert (len(steps), signatures) == (1, [])


def test_what_the_counter_keeps_is_bounded(counted: dict[str, Any]) -> None:
    assert counted["kept"] == [MOST_KEPT, 2, 1]
    told, [name, tokens, layers] = counted["ended"]
    assert (told, name, tokens) == (MOST_ENDED, "r258", 1)
    assert [set(layer) for layer in layers] == [{0, 1}, {0, 1}]
