"""Faults of the simulated vLLM through a real gateway: what its clients see, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.rpc import error_details_pb2

from gateway.config.gateway import TimeoutsConfig
from moegate.simulated_vllm.config import DEFAULT_MODEL
from moegate.simulated_vllm.faults.flags import parse_faults
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import inference_pb2
from tests import serving
from tests.serving import (
    METADATA,
    Call,
    Serving,
    chat_request,
    detail,
    first_message,
    partial_output,
    read_stream,
    trailer,
)

ROOT = Path(__file__).resolve().parents[3]
TOKENS = 16
NOTHING_LEFT = "<Scheduler: 0 queued, 0 running>"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": TOKENS,
    "ignore_eos": True,
}


@dataclass(frozen=True, slots=True)
class Fleet:
    """A gateway in front of two simulated replicas: `a`, which is tried first, and `b`."""

    serving: Serving
    a: SimulatedVllm
    b: SimulatedVllm

    def fail(self, *faults: str) -> None:
        """Faults of `a` from now on."""
        self.a.faults = parse_faults(faults)

    def generate(self, **fields: object) -> Call:
        """A stream of exactly `TOKENS` tokens, if nothing goes wrong."""
        options = {"max_output_tokens": TOKENS, "ignore_eos": True} | fields
        request = chat_request("Tell me a story.", **options)
        return self.serving.stub.Generate(request, metadata=METADATA)


@contextlib.asynccontextmanager
async def fleet(
    *faults: str, ready: bool = True, speed: float = 50.0, first_token_s: float = 2.0
) -> AsyncIterator[Fleet]:
    """`faults`: of `a`, from its start. Checks at the end that nothing is left anywhere."""
    good = SimulatedVllmConfig(speed=speed)
    broken = SimulatedVllmConfig(speed=speed, faults=parse_faults(faults))
    timeouts = TimeoutsConfig(first_token_s=first_token_s, idle_s=1.0)
    async with simulated_vllm(broken) as a, simulated_vllm(good) as b:
        pool = serving.pool([a.url, b.url], upstream_model=DEFAULT_MODEL, timeouts=timeouts)
        async with serving.serving(serving.config(pools=[pool]), ready=ready) as running:
            yield Fleet(running, a, b)
            scheduler = running.gateway.scheduler.core
            await serving.until(lambda: repr(scheduler) == NOTHING_LEFT)
            for sim in (a, b):
                await until_idle(sim)


async def until_idle(sim: SimulatedVllm) -> None:
    """Waits until no request is left in a server, and no block in its engine."""
    await serving.until(lambda: sim.open_requests == 0 and not sim.engine.has_work)
    assert sim.engine.kv_usage == 0.0


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("delay:seconds=60", "timeout: no output within 2 s"),
        ("cut:after_tokens=0", "server_error: the stream was cut: the connection broke"),
        ("silence:after_tokens=0", "timeout: no output within 2 s"),
        ("error:after_tokens=0", "server_error: error in the stream: EngineCore encountered an"),
        ("malformed:after_tokens=0", "protocol: an event of the stream is not the JSON"),
        ("status:code=429", "busy: HTTP 429: A simulated fault: HTTP 429."),
        ("status:code=503", "busy: HTTP 503: The engine is currently busy"),
        ("unhealthy", "server_error: HTTP 500: EngineCore encountered an issue."),
        ("drain", "server_error: HTTP 500: cannot schedule new futures after shutdown"),
        ("crash:after_tokens=0", "server_error: the stream was cut: the connection broke"),
        ("refuse:first=1", "server_error: the connection broke before an answer"),
    ],
)
async def test_before_content_the_other_replica_answers(fault: str, outcome: str) -> None:
    async with fleet() as running:
        running.fail(fault)
        seen = await read_stream(running.generate())
        assert seen.done is not None
        first, second = seen.done.route.attempts
        assert (first.placement, second.placement) == ("own/a", "own/b")
        assert first.outcome.startswith(outcome)
        assert second.outcome == "ok"
        assert seen.done.usage.completion_tokens == TOKENS


@pytest.mark.parametrize("kind", ["cut", "silence", "error", "malformed", "crash"])
async def test_after_content_the_client_is_told_how_far_it_came(kind: str) -> None:
    async with fleet() as running:
        running.fail(f"{kind}:after_tokens=5")
        call = running.generate()
        await first_message(call)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(call)
        told = partial_output(caught.value)[1].completion_tokens
        # A connection that is reset takes what the gateway has not read yet with it.
        assert 1 <= told <= 5 if kind in ("cut", "crash") else told == 5
        running.fail()
        await serving.until_serving(running.serving.gateway, 2)


@pytest.mark.parametrize("kind", ["cut", "error", "malformed", "crash"])
async def test_a_unary_answer_is_failed_over_after_content(kind: str) -> None:
    async with fleet() as running:
        running.fail(f"{kind}:after_tokens=5")
        request = chat_request(max_output_tokens=TOKENS, ignore_eos=True)
        response = await running.serving.stub.GenerateOnce(
            inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
        )
        attempts = [attempt.placement for attempt in response.done.route.attempts]
        assert attempts == ["own/a", "own/b"]
        assert response.done.usage.completion_tokens == TOKENS


async def test_an_unhealthy_replica_never_enters_service() -> None:
    async with fleet("unhealthy", ready=False) as running:
        async with aiohttp.ClientSession() as session:
            for path in ("/health", "/v1/models", "/metrics"):
                async with session.get(running.a.url + path) as response:
                    assert response.status == 200
        placements = running.serving.gateway.scheduler.core.placements
        await serving.until(lambda: "EngineCore" in placements[0].reason)
        await serving.until(lambda: placements[1].serving)
        seen = await read_stream(running.generate())
        assert seen.done is not None
        assert [attempt.placement for attempt in seen.done.route.attempts] == ["own/b"]
        assert not placements[0].serving
        running.fail()
        await serving.until(lambda: placements[0].serving)


async def test_while_a_replica_drains_its_streams_finish_and_new_ones_go_elsewhere() -> None:
    async with fleet(speed=1.0) as running:
        old = running.generate(max_output_tokens=60)
        await first_message(old)
        running.fail("drain")
        new = await read_stream(running.generate(max_output_tokens=2))
        assert new.done is not None
        assert new.done.route.replica == "b"
        done = (await read_stream(old)).done
        assert done is not None
        assert (done.route.replica, done.usage.completion_tokens) == ("a", 60)


async def test_a_replica_that_refuses_is_out_until_its_listener_is_back() -> None:
    async with fleet(speed=1.0) as running:
        placements = running.serving.gateway.scheduler.core.placements
        old = running.generate(max_output_tokens=60)
        await first_message(old)
        running.fail("refuse")
        await serving.until(lambda: not placements[0].serving)
        seen = await read_stream(running.generate(max_output_tokens=2))
        assert seen.done is not None
        assert seen.done.route.replica == "b"
        done = (await read_stream(old)).done
        assert done is not None
        assert done.usage.completion_tokens == 60, "what runs is finished"
        running.fail()
        await serving.until(lambda: placements[0].serving)


async def test_the_listener_comes_back_by_itself() -> None:
    async with fleet("refuse:seconds=1", ready=False) as running:
        await serving.until_serving(running.serving.gateway, 2)


STORM = tuple(
    f"{fault}{',' if ':' in fault else ':'}probability=0.04,seed=7"
    for fault in (
        *("delay:seconds=3", "cut:after_tokens=4", "silence:after_tokens=6"),
        *("error:after_tokens=5", "malformed:after_tokens=3", "status:code=429"),
        *("status:code=503", "unhealthy", "drain", "cut:after_tokens=0"),
    )
)
REFUSE = "refuse:seconds=1,probability=0.02,seed=8"
CRASH = "crash:after_tokens=4,probability=0.01,seed=2"
STREAMS = 200


async def test_in_a_storm_every_stream_ends_in_a_known_way() -> None:
    async with fleet(first_token_s=5.0) as running:
        running.a.faults = parse_faults([*STORM, REFUSE])
        running.b.faults = parse_faults([*STORM, CRASH])
        at_once = asyncio.Semaphore(16)

        async def one(number: int) -> str:
            async with at_once:
                end = await end_of(running.generate(request_id=f"storm-{number}"))
                if end == "refused":
                    # As told: else all the others would be refused while both replicas are out.
                    await asyncio.sleep(0.5)
                return end

        async with asyncio.timeout(5 * serving.READY_S):
            ends = Counter(await asyncio.gather(*(one(number) for number in range(STREAMS))))
        assert set(ends) <= {"done", "partial", "refused"}, ends
        assert ends["done"] > STREAMS / 4, ends
        assert ends["partial"] > 0, ends
        running.fail()
        running.b.faults = parse_faults([])
        await serving.until_serving(running.serving.gateway, 2)
        assert await end_of(running.generate()) == "done"


async def end_of(call: Call) -> str:
    """How a stream ends, checked for what must come with each way."""
    try:
        seen = await read_stream(call)
    except grpc.aio.AioRpcError as caught:
        return end_by_error(caught)
    assert seen.done is not None
    assert seen.done.usage.completion_tokens == TOKENS
    return "done"


def end_by_error(error: grpc.aio.AioRpcError) -> str:
    """The two ways in which a stream may fail; anything else is an AssertionError."""
    if trailer(error, "moegate-usage-bin") is not None:
        assert partial_output(error)[1].completion_tokens > 0
        return "partial"
    known = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert error.code() in known, error
    assert detail(error, error_details_pb2.RetryInfo).HasField("retry_delay")
    return "refused"


async def test_what_a_client_of_the_server_sees() -> None:
    config = SimulatedVllmConfig(speed=50.0)
    async with simulated_vllm(config) as sim, aiohttp.ClientSession() as session:

        async def post(fault: str, **fields: object) -> tuple[aiohttp.ClientResponse, str]:
            sim.faults = parse_faults([fault])
            async with session.post(sim.url + CHAT, json=BODY | fields) as response:
                return response, await response.text()

        response, text = await post("error:after_tokens=5", stream=True)
        *chunks, error, done, rest = text.split("\n\n")
        assert (response.status, done, rest) == (200, "data: [DONE]", "")
        assert len(chunks) == 1 + 5, "the role and the tokens"
        assert json.loads(error.removeprefix("data: ")) == {
            "error": {
                "message": "EngineCore encountered an issue. See stack trace (above) for the root"
                " cause.",
                "type": "InternalServerError",
                "param": None,
                "code": 500,
            }
        }
        response, text = await post("error:after_tokens=5")
        assert (response.status, json.loads(text)) == (500, json.loads(error[len("data: ") :]))
        response, _ = await post("status:code=429")
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        response, _ = await post("status:code=503")
        assert (response.status, "Retry-After" in response.headers) == (503, False)
        response, _ = await post("status:code=503,retry_after_seconds=4")
        assert response.headers["Retry-After"] == "4"
        response, text = await post("malformed:after_tokens=2")
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
        for stream in (True, False):
            with pytest.raises(aiohttp.ClientPayloadError):
                await post("cut:after_tokens=5", stream=stream)
        response, text = await post(f"cut:after_tokens={TOKENS + 1}")
        assert json.loads(text)["usage"]["completion_tokens"] == TOKENS, "shorter: goes well"
        await until_idle(sim)


async def test_a_sequence_of_a_silent_stream_ends_when_the_client_leaves() -> None:
    faults = parse_faults(["silence:after_tokens=2"])
    config = SimulatedVllmConfig(speed=1.0, faults=faults)
    async with simulated_vllm(config) as sim, aiohttp.ClientSession() as session:
        body = BODY | {"stream": True, "max_tokens": 4000}
        async with session.post(sim.url + CHAT, json=body) as response:
            await response.content.readuntil(b"\n\n")
            assert sim.open_requests == 1
            response.close()
        await until_idle(sim)


async def test_the_process_is_gone_after_a_crash() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moegate", "simulate-vllm", "--port", "0", "--speed", "50"),
        *("--fault", "crash:after_tokens=3"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(serving.READY_S):
            line = (await process.stdout.readline()).decode()
        url = line.split()[3]
        async with (
            aiohttp.ClientSession() as session,
            session.post(url + CHAT, json=BODY | {"stream": True}) as response,
        ):
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        async with asyncio.timeout(serving.READY_S):
            assert await process.wait() == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_bad_flag_is_told_in_one_line() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moegate", "simulate-vllm", "--fault", "cut:after_token=1"),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(serving.READY_S):
        _, told = await process.communicate()
    assert process.returncode == 1
    assert told.decode().startswith(
        '--fault cut:after_token=1: "after_token" is no key of cut: did you mean'
    )
    assert told.count(b"\n") == 1
