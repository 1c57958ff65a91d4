"""Real agents on the gateway, unchanged: each runs the tool that the model asks for, sends the
result, and ends with the model's answer."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests import serving
from tests.clients.conftest import CLIENTS, CONTEXT_TOKENS, Bench, Ran
from tests.serving import KEY, MODEL

BIN = CLIENTS / "node_modules" / ".bin"
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
}


def check_round_trip(bench: Bench, ran: Ran) -> None:
    assert ran.status == 0, (ran.out[-2000:], ran.err[-2000:])
    assert bench.ran_the_tool(), (ran.out[-2000:], ran.err[-2000:])
    assert len(bench.attempts.seen) >= 2


def claude(bench: Bench, prompt: str) -> tuple[list[str], dict[str, str]]:
    command = [str(BIN / "claude"), "-p", prompt, "--output-format", "json", "--model", MODEL]
    environment = {"ANTHROPIC_BASE_URL": bench.gateway.url, "ANTHROPIC_AUTH_TOKEN": KEY}
    return [*command, "--allowedTools", "Bash"], environment | QUIET


async def test_claude_code(bench: Bench) -> None:
    command, environment = claude(bench, "run echo hello")
    ran = await bench.run(*command, **environment)
    check_round_trip(bench, ran)
    told = json.loads(ran.out)
    assert told["is_error"] is False
    assert told["num_turns"] == 2
    assert told["result"]


async def test_claude_code_that_is_killed_frees_the_engine(bench: Bench) -> None:
    command, environment = claude(bench, "tell me a long story")
    process = await bench.start(*command, **environment)
    await serving.until(lambda: bench.engine.open_requests > 0)
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    await serving.until(lambda: bench.engine.open_requests == 0)


async def test_codex(bench: Bench) -> None:
    provider = (
        f'{{name="gw",base_url="{bench.gateway.url}/v1",env_key="GATEWAY_KEY",'
        'wire_api="responses"}'
    )
    home = bench.home / "codex"
    home.mkdir()
    ran = await bench.run(
        *(BIN / "codex", "exec", "--skip-git-repo-check", "-s", "danger-full-access"),
        *("-m", MODEL, "-c", "model_provider=gw", "-c", f"model_providers.gw={provider}"),
        "run echo hello",
        CODEX_HOME=str(home),
        GATEWAY_KEY=KEY,
    )
    check_round_trip(bench, ran)


async def test_opencode(bench: Bench) -> None:
    config = {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "permission": {"bash": "allow"},
        "provider": {
            "gw": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "gw",
                "options": {"baseURL": f"{bench.gateway.url}/v1", "apiKey": KEY},
                "models": {
                    MODEL: {
                        "name": MODEL,
                        "tool_call": True,
                        "limit": {"context": CONTEXT_TOKENS, "output": 32_000},
                    }
                },
            }
        },
    }
    (bench.folder / "opencode.json").write_text(json.dumps(config))
    ran = await bench.run(BIN / "opencode", "run", "--model", f"gw/{MODEL}", "run echo hello")
    check_round_trip(bench, ran)


@pytest.mark.parametrize("api", ["openai-completions", "openai-responses", "anthropic-messages"])
async def test_openclaw(bench: Bench, api: str) -> None:
    base = bench.gateway.url if api == "anthropic-messages" else f"{bench.gateway.url}/v1"
    model = {
        "id": MODEL,
        "name": MODEL,
        "reasoning": False,
        "input": ["text"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "contextWindow": CONTEXT_TOKENS,
        "maxTokens": 8192,
    }
    provider = {"baseUrl": base, "apiKey": KEY, "api": api, "models": [model]}
    config = bench.home / "openclaw.json"
    config.write_text(json.dumps({"models": {"providers": {"gw": provider}}}))
    ran = await bench.run(
        *(BIN / "openclaw", "agent", "exec", "run echo hello with exec"),
        *("--config", config, "--model", f"gw/{MODEL}", "--cwd", bench.folder),
        *("--json", "--timeout", "120"),
    )
    check_round_trip(bench, ran)


async def test_aider(bench: Bench) -> None:
    ran = await bench.run(
        *(CLIENTS / "python" / "bin" / "aider", "--model", f"openai/{MODEL}", "--yes-always"),
        *("--no-git", "--no-check-update", "--no-show-model-warnings", "--no-analytics"),
        *("--message", "say hi"),
        OPENAI_API_BASE=f"{bench.gateway.url}/v1",
        OPENAI_API_KEY=KEY,
    )
    assert ran.status == 0, (ran.out, ran.err)
    assert len(bench.attempts.seen) == 1
