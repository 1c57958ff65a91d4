"""`moegate up` with a real process in vLLM's place: it serves, and every end ends all of it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc
import pytest

from gateway.config.gateway import GpuConfig
from gateway.server import RunningGateway
from moegate.up import engine
from moegate.up.launch import KEY_VARIABLE, Launch
from moegate.up.plan import UpPlan
from moegate.up.process_keeper import descendants
from moegate.v1 import inference_pb2_grpc
from tests import serving
from tests.moegate_up import LIMIT_S, Running, processes_of_session, shell, until_gone, up

MODEL = serving.MODEL

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks at processes in /proc"
)


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    """The stand-in as an executable."""
    script = Path(__file__).with_name("stand_in_vllm.py")
    file = tmp_path / "vllm"
    command = shlex.join([sys.executable, "-I", "-S", str(script)])
    file.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    file.chmod(0o755)
    return file


def with_stand_in(vllm: Path, *arguments: str) -> AbstractAsyncContextManager[Running]:
    return up(vllm.parent, MODEL, "--vllm", str(vllm), *arguments)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "ctrl-c"])
async def test_it_serves_and_ends_in_order(vllm: Path, number: signal.Signals) -> None:
    async with with_stand_in(vllm) as running:
        pid = await running.until_worker()
        command = await running.until_serving()
        assert len(processes_of_session(pid)) == 2
        status, answer, account = await shell(f"{command} --max-output-tokens 3")
        assert (status, answer) == (0, "word word word \n"), account
        assert "ran on own/vllm" in account
        status, _, refusal = await shell(command.replace("=mg-", "=mg-not"))
        assert status == 1
        assert "UNAUTHENTICATED" in refusal

        running.process.send_signal(number)
        assert await running.ended() == 0, running.err
        await until_gone(pid)
        assert running.out.count("mg-") == 1, "the key is shown once"
        assert "mg-" not in running.err
        assert "Traceback" not in running.err
        drained = running.err.index("draining: 0 requests in flight")
        assert drained < running.err.index("stopping vLLM")


async def test_a_stream_that_runs_may_finish(vllm: Path) -> None:
    async with with_stand_in(vllm) as running:
        pid = await running.until_worker()
        await running.until_serving()
        address = await running.until_says(r"moegate listens on (\S+)")
        async with grpc.aio.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            call = stub.Generate(
                serving.chat_request(max_output_tokens=100), metadata=running.metadata
            )
            await serving.first_message(call)
            running.process.send_signal(signal.SIGTERM)
            await running.until_says(r"(draining): \d requests in flight")
            seen = await serving.read_stream(call)
        assert seen.done is not None
        assert seen.done.usage.completion_tokens == 100
        assert await running.ended() == 0, running.err
        await until_gone(pid)


async def test_a_second_signal_ends_the_waiting(vllm: Path) -> None:
    async with with_stand_in(vllm, "--", "--stand-in=stubborn") as running:
        pid = await running.until_worker()
        await running.until_serving()
        address = await running.until_says(r"moegate listens on (\S+)")
        async with grpc.aio.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            call = stub.Generate(
                serving.chat_request(max_output_tokens=4000), metadata=running.metadata
            )
            await serving.first_message(call)
            running.process.send_signal(signal.SIGINT)
            await running.until_says(r"(draining): 1 requests in flight")
            running.process.send_signal(signal.SIGINT)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await serving.read_stream(call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await running.ended() == 0, running.err
        await until_gone(pid)


async def test_vllm_that_exits_at_once_is_quoted(vllm: Path) -> None:
    async with with_stand_in(vllm, "--", "--stand-in=exits") as running:
        assert await running.ended() == 1
    assert "moegate up: vLLM ended with status 3 before it served" in running.err
    said = running.err.partition("--- first errors in ")[2].splitlines()
    assert said[1] == "  ValueError: no such model"
    assert said[2].startswith("--- end of "), "nothing but the cause stands before the end"
    assert running.err.rstrip().endswith("  RuntimeError: see the root cause above")
    assert running.out == ""


async def test_vllm_that_dies_ends_everything(vllm: Path) -> None:
    async with with_stand_in(vllm) as running:
        pid = await running.until_worker()
        await running.until_serving()
        address = await running.until_says(r"moegate listens on (\S+)")
        async with grpc.aio.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            call = stub.Generate(
                serving.chat_request(max_output_tokens=4000), metadata=running.metadata
            )
            await serving.first_message(call)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await serving.read_stream(call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await running.ended() == 1
        await until_gone(pid)
    assert "moegate up: vLLM ended with SIGKILL while it served" in running.err
    assert re.search(r"\n  worker \d+ of ", running.err), "the end of its log"


async def test_vllm_that_never_serves_meets_the_limit(vllm: Path) -> None:
    async with with_stand_in(vllm, "--start-limit-s", "1", "--", "--stand-in=silent") as running:
        pid = await running.until_worker()
        assert await running.ended() == 1
        await until_gone(pid)
    assert "moegate up: vLLM was not in service within 1 s: connect: " in running.err


async def test_a_signal_during_the_start_ends_it(vllm: Path) -> None:
    async with with_stand_in(vllm, "--", "--stand-in=silent") as running:
        pid = await running.until_worker()
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0, running.err
        await until_gone(pid)
    assert running.out == ""


async def test_an_address_in_use_ends_it(vllm: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with with_stand_in(vllm, "--listen", f"127.0.0.1:{port}") as running:
            pid = int(await running.until_says(r"vLLM starts as process (\d+)"))
            assert await running.ended() == 1
            await until_gone(pid)
    assert f"cannot listen on 127.0.0.1:{port}" in running.err


@pytest.mark.parametrize("killed", ["vllm", "moegate"])
async def test_a_worker_in_a_session_of_its_own_is_not_left(vllm: Path, killed: str) -> None:
    async with with_stand_in(vllm, "--", "--stand-in=escapes") as running:
        pid = await running.until_worker()
        await running.until_serving()
        (worker,) = descendants(pid)
        assert worker not in processes_of_session(pid)
        if killed == "vllm":
            os.kill(pid, signal.SIGKILL)
        else:
            running.process.kill()
        await running.ended()
        await until_gone(pid)
        await until_gone(worker)


@pytest.mark.parametrize("variant", ["serves", "stubborn"])
async def test_vllm_does_not_outlive_a_killed_moegate(vllm: Path, variant: str) -> None:
    async with with_stand_in(vllm, "--", f"--stand-in={variant}") as running:
        pid = await running.until_worker()
        running.process.kill()
        await running.ended()
        await until_gone(pid)


def plan(vllm: Path, variant: str) -> UpPlan:
    return UpPlan(
        vllm=vllm,
        launch=Launch(model=MODEL, served_model_name=MODEL, flags=(f"--stand-in={variant}",)),
        listen="127.0.0.1:0",
        gpu=GpuConfig(type="H100", count=1),
    )


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that run it in this process: restores the variable, and needs no long patience."""
    monkeypatch.setenv(KEY_VARIABLE, "to be replaced")
    monkeypatch.setattr(engine, "STOP_GRACE_S", 0.3)
    monkeypatch.setattr(engine, "SHUTDOWN_TIMEOUT_S", 0)


def vllm_pid(said: str) -> int:
    found = re.search(r"vLLM starts as process (\d+)", said)
    assert found, said
    return int(found[1])


@pytest.mark.usefixtures("own_process")
async def test_vllm_that_ignores_sigterm_is_killed(
    vllm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_request = engine.StopRequest()

    def announce(gateway: RunningGateway) -> None:
        stop_request.signal_received()

    async with asyncio.timeout(LIMIT_S):
        await engine.serve_model(plan(vllm, "stubborn"), stop_request, "mg-key", announce)
    await until_gone(vllm_pid(capsys.readouterr().err))


@pytest.mark.usefixtures("own_process")
async def test_an_exception_ends_everything(vllm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def announce(gateway: RunningGateway) -> None:
        raise RuntimeError("a fault of moegate")

    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(RuntimeError, match="a fault of moegate"):
            await engine.serve_model(plan(vllm, "serves"), engine.StopRequest(), "mg-key", announce)
    await until_gone(vllm_pid(capsys.readouterr().err))


@pytest.mark.usefixtures("own_process")
async def test_cancelling_it_while_it_stops_ends_everything(
    vllm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "STOP_GRACE_S", LIMIT_S)
    stop_request = engine.StopRequest()
    work = asyncio.create_task(
        engine.serve_model(
            plan(vllm, "stubborn"),
            stop_request,
            "mg-key",
            lambda gateway: stop_request.signal_received(),
        )
    )
    said = ""
    async with asyncio.timeout(LIMIT_S):
        while "stopping vLLM" not in said:
            await asyncio.sleep(0.02)
            said += capsys.readouterr().err
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await until_gone(vllm_pid(said))
