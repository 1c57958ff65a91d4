"""A gateway before a simulated vLLM that calls one tool, and real clients as processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from scheduler.metering.settlement import SettledAttempt
from tests import serving
from tests.http_serving import ServingHttp, serving_http
from tests.serving import MODEL

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = Path(os.environ.get("MOEGATE_CLIENTS", ROOT / ".cache" / "clients")).resolve()
"""Where `install.sh` has put the clients."""
CLIENT_S = 150.0
"""Bound on one run of a client: generous, the machine is shared."""
CONTEXT_TOKENS = 131_072
_RUNS = "touch ran-by-the-agent && echo hello"
CALLS = (
    ("Bash", {"command": _RUNS, "description": "Say hello"}),  # Claude Code
    ("exec_command", {"cmd": _RUNS}),  # Codex
    ("bash", {"command": _RUNS, "description": "Say hello"}),  # OpenCode
    ("exec", {"command": _RUNS}),  # OpenClaw
)
"""The call of each agent's shell, by the name of its tool."""


def pytest_configure() -> None:
    if not (CLIENTS / ".ready").exists():
        raise pytest.UsageError(f"the clients are not installed in {CLIENTS}: make test-clients")


@dataclass(frozen=True, slots=True)
class Ran:
    """A client that ended."""

    status: int
    out: str
    err: str


class Attempts:
    """The settled attempts of a gateway."""

    def __init__(self) -> None:
        self.seen: list[SettledAttempt] = []

    def __call__(self, attempt: SettledAttempt) -> None:
        self.seen.append(attempt)


@dataclass(frozen=True, slots=True)
class Bench:
    """A gateway, its engine, and an empty folder in which clients run, with a home beside it."""

    gateway: ServingHttp
    engine: SimulatedVllm
    attempts: Attempts
    folder: Path
    home: Path

    def ran_the_tool(self) -> bool:
        """Whether a client ran the command that the model asked for."""
        return (self.folder / "ran-by-the-agent").exists()

    async def start(self, *command: str | Path, **environment: str) -> asyncio.subprocess.Process:
        """Starts a client in a session of its own, which knows nothing of this machine's user."""
        return await asyncio.create_subprocess_exec(
            *map(str, command),
            cwd=self.folder,
            env=self._environment(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async def run(self, *command: str | Path, **environment: str) -> Ran:
        """Runs a client to its end."""
        process = await self.start(*command, **environment)
        try:
            async with asyncio.timeout(CLIENT_S):
                out, err = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        node = (CLIENTS / "node").resolve().parent
        path = f"{node}:{CLIENTS / 'node_modules' / '.bin'}:{os.environ['PATH']}"
        home = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / ".config")}
        return {"PATH": path, "LANG": "C.UTF-8", "NO_COLOR": "1", **home, **extra}


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedVllm]:
    settings = SimulatedVllmConfig(
        served_model_name=MODEL,
        speed=20.0,
        max_model_len=CONTEXT_TOKENS,
        num_gpu_blocks=2 * CONTEXT_TOKENS // 16,
        tool_calls=tuple((name, json.dumps(arguments)) for name, arguments in CALLS),
    )
    async with simulated_vllm(settings) as running:
        yield running


@pytest.fixture
async def bench(engine: SimulatedVllm, tmp_path: Path) -> AsyncIterator[Bench]:
    attempts = Attempts()
    settings = serving.config(pools=[serving.pool([engine.url])], interactive=serving.PATIENT)
    folder, home = tmp_path / "work", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    async with serving_http(settings, sinks=(attempts,)) as gateway:
        yield Bench(gateway, engine, attempts, folder, home)
