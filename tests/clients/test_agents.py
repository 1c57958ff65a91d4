"""Real agents on the gateway, unchanged: each runs the tool that the model asks for and ends with
the answer, shows the budget, understands a refusal, and frees the engine when it is killed."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests import serving
from tests.clients.agents import AGENTS, BIN, Start, aider
from tests.clients.conftest import Bench, Ran
from tests.serving import KEY

EVERY = {**AGENTS, "aider": aider}


async def run(bench: Bench, start: Start, prompt: str) -> Ran:
    agent = start(bench, prompt)
    return await bench.run(*agent.command, **agent.environment)


@pytest.mark.parametrize("name", AGENTS)
async def test_a_tool_round_trip(bench: Bench, name: str) -> None:
    ran = await run(bench, AGENTS[name], "run echo hello with your shell tool")
    assert ran.status == 0, (ran.out[-2000:], ran.err[-2000:])
    assert bench.ran_the_tool(), (ran.out[-2000:], ran.err[-2000:])
    assert len(bench.attempts.seen) >= 2


async def test_aider(bench: Bench) -> None:
    ran = await run(bench, aider, "say hi")
    assert ran.status == 0, (ran.out, ran.err)
    assert len(bench.attempts.seen) == 1


@pytest.mark.parametrize("name", EVERY)
async def test_an_agent_that_is_killed_frees_the_engine(bench: Bench, name: str) -> None:
    agent = EVERY[name](bench, "tell me a long story")
    process = await bench.start(*agent.command, **agent.environment)
    await serving.until(lambda: bench.engine.open_requests > 0)
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    await serving.until(lambda: bench.engine.open_requests == 0)


async def test_openclaw_shows_the_budget(capped: Bench) -> None:
    provider = {"baseUrl": f"{capped.gateway.url}/v1", "apiKey": KEY, "models": []}
    config = capped.home / "openclaw.json"
    config.write_text(json.dumps({"models": {"providers": {"clawrouter": provider}}}))
    ran = await capped.run(
        *(BIN / "openclaw", "status", "--usage", "--json"),
        CLAWROUTER_API_KEY=KEY,
        OPENCLAW_CONFIG_PATH=str(config),
    )
    assert ran.status == 0, (ran.out[-2000:], ran.err[-2000:])
    providers = json.loads(ran.out)["usage"]["providers"]
    [told] = [each for each in providers if each["provider"] == "clawrouter"]
    assert told["billing"][0]["limit"] == 1000
    assert told["windows"][0]["label"] == "Monthly budget"


WAITING = "openclaw-messages"
"""It waits for the reset that the refusal tells, hours or days, and sends nothing meanwhile."""


@pytest.mark.parametrize("name", [name for name in AGENTS if name != WAITING])
async def test_a_spent_budget_is_understood(spent: Bench, name: str) -> None:
    """The client says why, and does not come again and again."""
    ran = await run(spent, AGENTS[name], "say hi")
    words = "Quota exceeded" if name == "codex" else "budget of tenant team"
    assert words in ran.out + ran.err, (ran.out[-2000:], ran.err[-2000:])
    assert len(spent.requests) <= 4, spent.requests
    assert not spent.attempts.seen
