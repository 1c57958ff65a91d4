"""`moegate up --tiny` on the real vLLM, as a newcomer runs it: one command, a chat, Ctrl-C."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.moegate_up import processes_of_session, shell, until_gone, up
from tests.vllm.launch import START_LIMIT_S, unsupported_cpu, vllm_venv


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
