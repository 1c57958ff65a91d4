"""A gateway before a simulated vLLM that calls one tool, and real clients as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from gateway.config.ledger import BudgetConfig
from gateway.config.server import TlsConfig
from gateway.doors.http.door import HttpDoor
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from scheduler.budgets.budget_window import Period
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.settlement import SettledAttempt
from scheduler.pricing import RateTier, TokenRates
from tests import serving
from tests.http_serving import ServingHttp, serving_http
from tests.serving import MODEL

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = Path(os.environ.get("MOEGATE_CLIENTS", ROOT / ".cache" / "clients")).resolve()
"""Where `install.sh` has put the clients."""
CLIENT_S = 150.0
"""Bound on one run of a client: generous, the machine is shared."""
CONTEXT_TOKENS = 131_072
_NANO_USD = 10_000_000_000
RATES = TokenRates(
    row_id="test",
    tiers=(
        RateTier(
            uncached_input=_NANO_USD,
            cached_input=_NANO_USD,
            cache_write=_NANO_USD,
            output=_NANO_USD,
        ),
    ),
)
"""10 USD for a million tokens."""
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
    requests: list[str]
    """Paths of the requests for tokens so far."""

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


@contextlib.asynccontextmanager
async def running_bench(
    engine: SimulatedVllm,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cap_usd: str | None,
    tls: TlsConfig | None = None,
) -> AsyncIterator[Bench]:
    """`cap_usd`: budget of a month, at a cent for a thousand tokens; None: there is none."""
    attempts, requests = Attempts(), list[str]()
    settings = serving.config(pools=[serving.pool([engine.url])], interactive=serving.PATIENT)
    if cap_usd is not None:
        budget = BudgetConfig(tenant="team", period=Period.MONTH, cap_usd=cap_usd)
        settings = msgspec.structs.replace(settings, budgets=(budget,))
    folder, home = path / "work", path / "home"
    folder.mkdir()
    home.mkdir()
    handle = HttpDoor.handle

    async def counted(
        door: HttpDoor, request: web.BaseRequest, *, is_last: bool
    ) -> web.StreamResponse:
        if request.method == "POST":
            requests.append(request.path)
        return await handle(door, request, is_last=is_last)

    monkeypatch.setattr(HttpDoor, "handle", counted)
    async with serving_http(settings, sinks=(attempts,), tls=tls) as gateway:
        gateway.gateway.scheduler.use_rates(RateSnapshot(rates={"own/a": RATES}))
        yield Bench(gateway, engine, attempts, folder, home, requests)


@pytest.fixture
async def bench(
    engine: SimulatedVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """Without a budget."""
    async with running_bench(engine, tmp_path, monkeypatch, None) as made:
        yield made


@pytest.fixture
async def capped(
    engine: SimulatedVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """With a budget that is hardly used."""
    async with running_bench(engine, tmp_path, monkeypatch, "1000") as made:
        yield made


@pytest.fixture
async def spent(
    engine: SimulatedVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """With a budget that holds no request."""
    async with running_bench(engine, tmp_path, monkeypatch, "0.000001") as made:
        yield made
