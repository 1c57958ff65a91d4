"""`moegate up --tiny` on the real vLLM, as a newcomer runs it: one command, a chat, Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc
import pytest

from moegate.up.tiny import NAME
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2, inference_pb2_grpc
from tests.moegate_up import Running, processes_of_session, shell, until_gone, up
from tests.serving import READY_S, read_stream
from tests.vllm.launch import START_LIMIT_S, unsupported_cpu, vllm_venv


async def listens_to_kv_events(running: Running) -> None:
    """Two blocks of 128 tokens, which the gateway's own blocks of 512 could not tell of."""
    ask = generation_pb2.GenerateRequest(
        model=NAME,
        prompt_tokens=chat_pb2.TokenInput(token_ids=range(300, 300 + 260)),
        max_output_tokens=1,
    )
    address = await running.until_says(r"moegate listens on (\S+)")
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await read_stream(stub.Generate(ask, metadata=running.metadata))
        cached = 0
        async with asyncio.timeout(READY_S):
            while not cached:
                quote = await stub.Quote(
                    inference_pb2.QuoteRequest(request=ask), metadata=running.metadata
                )
                cached = quote.candidates[0].expected_cached_tokens
    assert cached == 256


@pytest.mark.skipif(unsupported_cpu() is not None, reason=str(unsupported_cpu()))
async def test_one_command_serves_a_chat_and_leaves_nothing(tmp_path: Path) -> None:
    vllm = vllm_venv() / "bin" / "vllm"
    arguments = ("--tiny", "--vllm", str(vllm), "--start-limit-s", str(START_LIMIT_S))
    async with up(tmp_path, *arguments) as running:
        pid = int(await running.until_says(r"vLLM starts as process (\d+)"))
        command = await running.until_serving(START_LIMIT_S)
        status, answer, account = await shell(f"{command} --max-output-tokens 8 --temperature 0")
        assert status == 0, account
        assert answer.strip()
        assert "8 out" in account
        assert "cached" in account, "vLLM was told to report cached tokens"
        assert "ran on own/vllm" in account
        await listens_to_kv_events(running)
        assert len(processes_of_session(pid)) > 2, "the API server, the engine, the worker"
        assert pid in processes_of_session(pid)

        running.process.send_signal(signal.SIGINT)
        assert await running.ended() == 0, running.err
        await until_gone(pid)
        assert running.err.index("draining") < running.err.index("stopping vLLM")
        assert "Traceback" not in running.err


@pytest.mark.skipif(unsupported_cpu() is not None, reason=str(unsupported_cpu()))
async def test_an_engine_that_dies_ends_the_command(tmp_path: Path) -> None:
    vllm = vllm_venv() / "bin" / "vllm"
    arguments = ("--tiny", "--vllm", str(vllm), "--start-limit-s", str(START_LIMIT_S))
    async with up(tmp_path, *arguments) as running:
        pid = int(await running.until_says(r"vLLM starts as process (\d+)"))
        await running.until_serving(START_LIMIT_S)
        # The API server alone, as the kernel's killer of large processes does: its engine and its
        # worker go on by themselves.
        os.kill(pid, signal.SIGKILL)
        assert await running.ended() == 1
        await until_gone(pid)
        assert "moegate up: vLLM ended with SIGKILL while it served" in running.err
        assert "Application startup complete" in running.err, "the end of its log"
