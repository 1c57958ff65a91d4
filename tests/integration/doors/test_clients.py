"""Clients as a newcomer runs them, in processes of their own, against a real gateway."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from tests import serving
from tests.serving import KEY, MODEL, Serving

ROOT = Path(__file__).resolve().parents[3]
NODE_READY = ROOT / "examples/node/node_modules/.ready"
UPSTREAM = "sim-moe"
CLIENT_S = 60.0
"""Bound on one client: generous, the machine is shared."""


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedVllm]:
    settings = SimulatedVllmConfig(
        served_model_name=UPSTREAM, speed=100.0, enable_prompt_tokens_details=True
    )
    async with simulated_vllm(settings) as running:
        yield running


@pytest.fixture
async def gateway(sim: SimulatedVllm) -> AsyncIterator[Serving]:
    settings = serving.config(pools=[serving.pool([sim.url], upstream_model=UPSTREAM)])
    async with serving.serving(settings) as running:
        yield running


@dataclass(frozen=True)
class Ran:
    """A process that ended."""

    status: int
    out: str
    err: str


def environment(key: str | None) -> dict[str, str]:
    """For a client on loopback: without proxies, and with no key but the one given."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and name != "MOEGATE_API_KEY"
    }
    paths = f"{ROOT}{os.pathsep}{ROOT / 'protos'}"
    return kept | {"PYTHONPATH": paths} | ({} if key is None else {"MOEGATE_API_KEY": key})


async def start(*command: str, key: str | None = KEY) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=environment(key),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(*command: str, key: str | None = KEY) -> Ran:
    process = await start(*command, key=key)
    try:
        async with asyncio.timeout(CLIENT_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


def python_example(address: str) -> tuple[str, ...]:
    return (sys.executable, "examples/python/chat.py", address, MODEL, "Why is the sky blue?")


def node_example(address: str) -> tuple[str, ...]:
    if not NODE_READY.exists():
        pytest.fail("the Node client is not installed: make examples/node/node_modules/.ready")
    return ("node", "examples/node/chat.mjs", address, MODEL, "Why is the sky blue?")


def moegate_chat(address: str, *options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "moegate", "chat", "--target", address, *options, "Why?")


Example = Callable[[str], tuple[str, ...]]


@pytest.mark.parametrize("example", [python_example, node_example])
async def test_an_example_streams_a_chat(gateway: Serving, example: Example) -> None:
    ran = await run(*example(gateway.gateway.address))
    assert ran.status == 0, ran.err
    *answer, account = ran.out.splitlines()
    assert "".join(answer).strip()
    found = re.fullmatch(
        r"(\d+) tokens in, (\d+) out, ran on own \(.+\), cost \$(0\.\d{9})", account
    )
    assert found, account
    assert int(found[1]) > 0
    assert int(found[2]) > 0
    assert float(found[3]) > 0
    assert ran.err == ""


async def test_the_agent_calls_its_tool_and_tells_each_cost(gateway: Serving) -> None:
    command = (sys.executable, "examples/python/agent.py", gateway.gateway.address, MODEL, "Day?")
    ran = await run(*command)
    assert (ran.status, ran.err) == (0, "")
    assert re.search(
        r"\d+ tokens in, \d+ out, charged unknown, metered \$0\.\d+$", ran.out, re.MULTILINE
    ), ran.out
    ran = await run(*command, key="wrong")
    assert ran.status == 1
    assert ran.err.startswith("UNAUTHENTICATED")


@pytest.mark.parametrize("example", [python_example, node_example])
async def test_an_example_tells_that_the_key_is_wrong(gateway: Serving, example: Example) -> None:
    ran = await run(*example(gateway.gateway.address), key="wrong")
    assert ran.status == 1
    assert ran.out == ""
    assert ran.err == "UNAUTHENTICATED: the API key is not known\n"


async def test_chat_prints_the_answer_and_its_account_apart(gateway: Serving) -> None:
    options = ("--max-output-tokens", "12", "--temperature", "0", "--local-only", "--system", "Be")
    ran = await run(*moegate_chat(gateway.gateway.address, *options))
    assert ran.status == 0, ran.err
    assert ran.out.strip()
    form = (
        r"tokens: \d+ in \(\d+ cached\), 12 out \| TTFT \d+ ms \| TPOT [\d.]+ ms"
        r" \| longest gap \d+ ms"
        r" \| queue \d+ ms \| ran on own/a: .+ \| metered \$[\d.]+ \| request \S+\n"
    )
    assert re.fullmatch(form, ran.err), ran.err


@pytest.mark.parametrize(
    ("options", "key", "error"),
    [
        (("--key", "wrong"), KEY, "UNAUTHENTICATED: the API key is not known"),
        ((), None, "UNAUTHENTICATED: no API key"),
        (("--model", "none"), KEY, "NOT_FOUND: model 'none' is not served here"),
        (("--temperature", "9"), KEY, "INVALID_ARGUMENT: sampling.temperature"),
        (("--key", "two\nlines"), KEY, "the key holds characters"),
    ],
)
async def test_chat_tells_what_is_wrong(
    gateway: Serving, options: tuple[str, ...], key: str | None, error: str
) -> None:
    ran = await run(*moegate_chat(gateway.gateway.address, *options), key=key)
    assert ran.status == 1
    assert ran.out == ""
    assert error in ran.err
    assert "Traceback" not in ran.err


async def test_chat_tells_that_nobody_listens() -> None:
    ran = await run(*moegate_chat("127.0.0.1:1"))
    assert ran.status == 1
    assert ran.err.startswith("UNAVAILABLE: ")
    assert "127.0.0.1:1" in ran.err


IN_FOREGROUND = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv(sys.argv[1], sys.argv[1:])",
)
"""Runs a command that a ctrl-c reaches, though the suite itself may run in the background, where
shells have it ignored."""


async def test_ctrl_c_cancels_the_request() -> None:
    slow = SimulatedVllmConfig(served_model_name=UPSTREAM, speed=0.1)
    async with simulated_vllm(slow) as sim:
        settings = serving.config(pools=[serving.pool([sim.url], upstream_model=UPSTREAM)])
        async with serving.serving(settings) as gateway:
            command = moegate_chat(gateway.gateway.address, "--max-output-tokens", "4000")
            process = await start(*IN_FOREGROUND, *command)
            assert process.stdout is not None
            async with asyncio.timeout(CLIENT_S):
                assert await process.stdout.read(1)
                process.send_signal(signal.SIGINT)
                _, err = await process.communicate()
            assert process.returncode == 130
            assert err.decode() == "cancelled\n"
            await serving.until(lambda: gateway.gateway.pipeline.active_requests == 0)
