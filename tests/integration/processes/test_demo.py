"""`moegate demo` as a newcomer runs it, only shorter: real processes, real gRPC, real signals."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from simulation.workloads import (
    AZURE_CONVERSATION_OUTPUT,
    AZURE_CONVERSATION_PROMPT,
    Burst,
    Workload,
    plan,
)

ROOT = Path(__file__).resolve().parents[3]
DEMO_S = 300.0
"""Bound on a demo of a few seconds: generous, the machine is shared."""


async def start(directory: Path, *options: str) -> asyncio.subprocess.Process:
    """`directory`: where its temporary files go, which a demo that is killed leaves behind."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'protos'}"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "moegate", "demo", *options),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths, "TMPDIR": str(directory)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finish(process: asyncio.subprocess.Process) -> tuple[str, str]:
    try:
        async with asyncio.timeout(DEMO_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return out.decode(), err.decode()


def children(pid: int) -> set[int]:
    """Processes that a process has started and that run."""
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return {int(child) for child in tasks.read_text().split()} if tasks.exists() else set()


def runs(pid: int) -> bool:
    """Whether a process is there and is more than an entry that nobody has collected yet."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


async def until_gone(pids: set[int]) -> None:
    async with asyncio.timeout(DEMO_S):
        while any(runs(pid) for pid in pids):
            await asyncio.sleep(0.05)


def row(out: str, name: str) -> int:
    """The last figure of a row of the closing report."""
    found = re.search(rf"^ {name} .*?(\d+) *$", out, re.MULTILINE)
    assert found, out
    return int(found[1])


async def test_the_demo_accounts_for_every_request(tmp_path: Path) -> None:
    process = await start(tmp_path, "--seconds", "6")
    out, err = await finish(process)
    assert process.returncode == 0, out + err
    assert "every request accounted for: yes" in out
    assert "tokens agree on both sides: yes" in out
    assert os.listdir(tmp_path) == []
    assert ": NO" not in out
    assert row(out, "ok on own servers") > 0
    assert row(out, "broken after content") == 0
    assert row(out, "failed") == 0
    assert err == ""


async def test_a_replica_that_dies_loses_no_request(tmp_path: Path) -> None:
    process = await start(tmp_path, "--seconds", "6", "--kill-replica-after", "3")
    out, err = await finish(process)
    assert process.returncode == 0, out + err
    assert "every request accounted for: yes" in out
    assert ": NO" not in out
    assert row(out, "broken after content") > 0
    assert row(out, "failed") == 0
    assert "own/b (killed)" in out


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["ctrl-c", "terminated", "killed"],
)
async def test_no_process_outlives_the_demo(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    process = await start(tmp_path, "--seconds", "30")
    async with asyncio.timeout(DEMO_S):
        while len(children(process.pid)) < 6:  # the reaper, four engines, the gateway
            await asyncio.sleep(0.05)
    started = children(process.pid)
    process.send_signal(number)
    _, err = await finish(process)
    await until_gone(started)
    assert process.returncode == status, err
    assert "Traceback" not in err


def test_the_load_is_like_the_trace_and_the_same_for_a_seed() -> None:
    burst = Burst(start_s=4000.0, end_s=5000.0, factor=3.0)
    workload = Workload(duration_s=6000.0, rate_per_s=5.0, burst=burst)
    planned = plan(workload, seed=1)
    assert planned == plan(workload, seed=1)
    assert planned != plan(workload, seed=2)

    at_s = np.array([request.at_s for request in planned])
    assert (np.diff(at_s) >= 0).all()
    steady = np.diff(at_s[at_s < burst.start_s])
    assert 1 / steady.mean() == pytest.approx(5.0, rel=0.05)
    assert steady.std() / steady.mean() == pytest.approx(1.5, rel=0.1)
    in_burst = ((at_s >= burst.start_s) & (at_s < burst.end_s)).sum()
    assert in_burst == pytest.approx(15_000, rel=0.05)

    for lengths, model in (
        ([request.prompt_tokens for request in planned], AZURE_CONVERSATION_PROMPT),
        ([request.output_tokens for request in planned], AZURE_CONVERSATION_OUTPUT),
    ):
        assert np.median(lengths) == pytest.approx(model.median_tokens, rel=0.05)
        # The cut of the longest takes some of the mean.
        assert np.mean(lengths) == pytest.approx(model.mean_tokens, rel=0.08)
        assert max(lengths) <= model.longest_tokens

    tenants = np.bincount([request.tenant for request in planned])
    assert (np.diff(tenants) < 0).all()
    assert tenants[0] / tenants[1] == pytest.approx(2**workload.zipf_exponent, rel=0.1)
    for request in planned:
        assert 0 <= request.prefix_tokens < request.prompt_tokens
        if request.cancel_after_tokens is not None:
            assert 1 <= request.cancel_after_tokens < request.output_tokens
