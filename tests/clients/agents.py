"""How each agent is started on a gateway: with the configuration that docs/clients.md gives it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.clients.conftest import CLIENTS, CONTEXT_TOKENS, Bench
from tests.serving import KEY, MODEL

BIN = CLIENTS / "node_modules" / ".bin"
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
}


@dataclass(frozen=True, slots=True)
class Agent:
    """A command line with its environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


Start = Callable[[Bench, str], Agent]
"""Makes the command for a prompt."""


def claude_code(bench: Bench, prompt: str) -> Agent:
    """Claude Code, which answers with the events of its session as JSON."""
    options = ("--output-format", "stream-json", "--verbose", "--model", MODEL)
    command = (str(BIN / "claude"), "-p", prompt, *options, "--allowedTools", "Bash")
    address = {"ANTHROPIC_BASE_URL": bench.gateway.url, "ANTHROPIC_AUTH_TOKEN": KEY}
    return Agent(command, address | QUIET)


def codex(bench: Bench, prompt: str) -> Agent:
    """Codex."""
    provider = (
        f'{{name="gw",base_url="{bench.gateway.url}/v1",env_key="GATEWAY_KEY",'
        'wire_api="responses"}'
    )
    home = bench.home / "codex"
    home.mkdir(exist_ok=True)
    command = (
        *(str(BIN / "codex"), "exec", "--skip-git-repo-check", "-s", "danger-full-access"),
        *("-m", MODEL, "-c", "model_provider=gw", "-c", f"model_providers.gw={provider}", prompt),
    )
    return Agent(command, {"CODEX_HOME": str(home), "GATEWAY_KEY": KEY})


def opencode(bench: Bench, prompt: str) -> Agent:
    """OpenCode."""
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
    return Agent((str(BIN / "opencode"), "run", "--model", f"gw/{MODEL}", prompt), {})


def openclaw(api: str) -> Start:
    """OpenClaw over one of its transports."""

    def start(bench: Bench, prompt: str) -> Agent:
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
        command = (
            *(str(BIN / "openclaw"), "agent", "exec", prompt),
            *("--config", str(config), "--model", f"gw/{MODEL}", "--cwd", str(bench.folder)),
            *("--json", "--timeout", "120"),
        )
        return Agent(command, {})

    return start


def aider(bench: Bench, prompt: str) -> Agent:
    """Aider, which calls no tools."""
    command = (
        *(str(CLIENTS / "python" / "bin" / "aider"), "--model", f"openai/{MODEL}"),
        *("--yes-always", "--no-git", "--no-check-update", "--no-show-model-warnings"),
        *("--no-analytics", "--message", prompt),
    )
    address = {"OPENAI_API_BASE": f"{bench.gateway.url}/v1", "OPENAI_API_KEY": KEY}
    return Agent(command, address)


AGENTS: dict[str, Start] = {
    "claude-code": claude_code,
    "codex": codex,
    "opencode": opencode,
    "openclaw-completions": openclaw("openai-completions"),
    "openclaw-responses": openclaw("openai-responses"),
    "openclaw-messages": openclaw("anthropic-messages"),
}
"""Those that call tools."""
