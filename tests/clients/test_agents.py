"""Real agents on the gateway, unchanged: each runs the tool that the model asks for and ends with
the answer, shows the budget, understands a refusal, and frees the engine when it is killed."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from typing import Any

import pytest

from tests import serving
from tests.clients.agents import AGENTS, BIN, Start, aider, claude_code
from tests.clients.conftest import GATEWAY_TOKEN, Bench, Ran
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


def budgets_told(ran: Ran) -> list[dict[str, Any]]:
    """What Claude Code has learnt of the budget, from the events of its session."""
    events = [json.loads(line) for line in ran.out.splitlines() if line.startswith("{")]
    return [each["rate_limit_info"] for each in events if each["type"] == "rate_limit_event"]


async def run_with_token(bench: Bench) -> Ran:
    agent = claude_code(bench, "say hi")
    return await bench.run(
        *agent.command, **{**agent.environment, "ANTHROPIC_AUTH_TOKEN": GATEWAY_TOKEN}
    )


async def test_claude_code_shows_the_budget(capped: Bench) -> None:
    """It reads the headers if its token says that a gateway has made it."""
    ran = await run_with_token(capped)
    assert ran.status == 0, (ran.out[-2000:], ran.err[-2000:])
    told = budgets_told(ran)[-1]
    assert (told["status"], told["rateLimitType"]) == ("allowed", "overage")
    resets = datetime.fromtimestamp(told["overageResetsAt"], UTC)
    assert (resets.day, resets.hour, resets.minute) == (1, 0, 0), "a month's budget"


async def test_claude_code_shows_that_the_budget_is_spent(spent: Bench) -> None:
    ran = await run_with_token(spent)
    told = budgets_told(ran)[-1]
    assert (told["status"], told["memberSpendLimit"]) == ("rejected", {"period": "monthly"})
    assert "budget of tenant team" in ran.out
    assert len(spent.requests) == 1


WAITING = "openclaw-messages"
"""It waits for the reset that the refusal tells, hours or days, and sends nothing meanwhile."""
MOST_REQUESTS = {"aider": 10}
"""It tries again for a minute after a 402, whatever the answer says."""


@pytest.mark.parametrize("name", [name for name in EVERY if name != WAITING])
async def test_a_spent_budget_is_understood(spent: Bench, name: str) -> None:
    """The client says why, and does not come again and again."""
    ran = await run(spent, EVERY[name], "say hi")
    words = "Quota exceeded" if name == "codex" else "budget of tenant team"
    assert words in ran.out + ran.err, (ran.out[-2000:], ran.err[-2000:])
    assert len(spent.requests) <= MOST_REQUESTS.get(name, 4), spent.requests
    assert not spent.attempts.seen
