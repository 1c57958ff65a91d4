"""What is special about vLLM's front end in Rust, behind the gateway and under `moegate up`.

Chats, tools, forms, KV events and the metering run on both front ends in the other modules. This
one is collected only for versions that have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2

from moegate.v1 import generation_pb2
from scheduler.provenance import Provenance
from tests import serving
from tests.moegate_up import Running, processes_of_session, shell, until_gone, up
from tests.serving import METADATA, Serving, chat_request, detail, first_message, read_stream
from tests.vllm.launch import (
    MODEL_NAME,
    START_LIMIT_S,
    VllmProcess,
    running_vllm,
    unsupported_cpu,
    vllm_venv,
)

LIMIT_S = 90.0
ENDLESS_TOKENS = 7000


@contextlib.asynccontextmanager
async def in_front_of(server: VllmProcess) -> AsyncIterator[Serving]:
    """A gateway whose configuration says nothing of the server's size."""
    own = serving.pool([server.base_url], upstream_model=MODEL_NAME)
    own = msgspec.structs.replace(own, max_num_seqs=None, grpc_port=server.grpc_port)
    settings = serving.config(pools=[own], interactive=serving.PATIENT)
    async with serving.serving(settings) as running:
        yield running


async def test_it_tells_its_size_over_grpc(vllm_server: VllmProcess) -> None:
    async with in_front_of(vllm_server) as gateway:
        [state] = gateway.gateway.scheduler.core.placements
        await serving.until(lambda: state.max_running_source is Provenance.TOLD)
        assert state.max_running == 32
        assert (state.context_tokens, state.context_source) == (8192, Provenance.TOLD)
        assert (state.kv_capacity_tokens, state.kv_capacity_source) == (
            600 * 128,
            Provenance.DERIVED,
        )
        assert state.report is not None
        assert (state.report.running, state.report.waiting) == (0, 0)


async def test_several_choices_are_refused_by_name(gateway: Serving) -> None:
    request = chat_request(choices=2, sampling=generation_pb2.Sampling(temperature=1.0))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = detail(caught.value, error_details_pb2.BadRequest).field_violations
    assert violation.field == "choices"
    assert all(state.serving for state in gateway.gateway.scheduler.core.placements)


def process_named(session: int, name: bytes) -> int:
    """The one process of a session whose command line begins so, its folder left out."""
    found = []
    for pid in processes_of_session(session):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].rpartition(b"/")[2].startswith(name):
                found.append(pid)
    [pid] = found
    return pid


@pytest.mark.skipif(unsupported_cpu() is not None, reason=str(unsupported_cpu()))
@pytest.mark.parametrize("name", [b"VLLM::EngineCore", b"vllm-rs"])
async def test_a_stream_ends_with_an_error_when_a_part_is_killed(
    tmp_path: Path, name: bytes
) -> None:
    with running_vllm(tmp_path, rust=True) as server:
        async with in_front_of(server) as gateway, asyncio.timeout(LIMIT_S):
            request = chat_request(max_output_tokens=ENDLESS_TOKENS, ignore_eos=True)
            call = gateway.stub.Generate(request, metadata=METADATA)
            assert (await first_message(call)).delta.choices
            os.kill(process_named(server.pid, name), signal.SIGKILL)
            with pytest.raises(grpc.aio.AioRpcError):
                await read_stream(call)
            [state] = gateway.gateway.scheduler.core.placements
            await serving.until(lambda: not state.serving)
            assert repr(gateway.gateway.scheduler.core) == "<Scheduler: 0 queued, 0 running>"


async def kill_moegate(running: Running, session: int) -> None:
    running.process.kill()
    await running.process.wait()


async def kill_front_end(running: Running, session: int) -> None:
    os.kill(process_named(session, b"vllm-rs"), signal.SIGKILL)
    assert await running.ended() == 1
    assert "while it served" in running.err


async def kill_server(running: Running, session: int) -> None:
    os.kill(session, signal.SIGKILL)
    assert await running.ended() == 1


async def interrupt(running: Running, session: int) -> None:
    running.process.send_signal(signal.SIGINT)
    assert await running.ended() == 0, running.err


@pytest.mark.skipif(unsupported_cpu() is not None, reason=str(unsupported_cpu()))
@pytest.mark.parametrize("end", [kill_moegate, kill_front_end, kill_server, interrupt])
async def test_nothing_is_left_of_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[Running, int], Awaitable[None]]
) -> None:
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    vllm = vllm_venv() / "bin" / "vllm"
    arguments = ("--tiny", "--vllm", str(vllm), "--start-limit-s", str(START_LIMIT_S))
    async with up(tmp_path, *arguments) as running:
        pid = int(await running.until_says(r"vLLM starts as process (\d+)"))
        command = await running.until_serving(START_LIMIT_S)
        status, answer, account = await shell(f"{command} --max-output-tokens 8 --temperature 0")
        assert status == 0, account
        assert answer.strip()
        assert "8 out" in account
        assert process_named(pid, b"vllm-rs")
        assert len(processes_of_session(pid)) > 2, "the front end, the engine, the worker"
        await end(running, pid)
        await until_gone(pid)
