"""Process groups: each ends with its context, and with its parent, however that one ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from moegate.up.process import ProcessGroup, process_reaper

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 20.0
STUBBORN = "trap '' TERM; sleep 600 & echo ready; wait; wait"


def runs(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def wait_until_gone(*pids: int) -> None:
    end_s = time.monotonic() + LIMIT_S
    while any(map(runs, pids)):
        assert time.monotonic() < end_s, "a process is left over"
        time.sleep(0.02)


def members(group: int) -> list[int]:
    """Processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            found.append(int(stat.parent.name))
    return found


async def until_ready(group: ProcessGroup) -> None:
    async with asyncio.timeout(LIMIT_S):
        while group.last_line != "ready":
            await asyncio.sleep(0.02)


async def test_the_exit_status_and_the_end_of_the_log_are_told(tmp_path: Path) -> None:
    with process_reaper() as reaper:
        command = ["/bin/sh", "-c", "echo first; echo; echo 'the   last'; echo; exit 3"]
        with reaper.start(command, tmp_path / "log", dict(os.environ)) as group:
            assert await group.wait() == 3
            assert group.last_line == "the last"
            assert "first" in group.tail()


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_group_that_ignores_sigterm_is_killed_as_a_whole(
    tmp_path: Path, hurried: bool
) -> None:
    hurry = asyncio.Event()
    with process_reaper() as reaper:
        command = ["/bin/sh", "-c", STUBBORN]
        with reaper.start(command, tmp_path / "log", dict(os.environ)) as group:
            await until_ready(group)
            pids = members(group.pid)
            assert len(pids) == 2
            if hurried:
                hurry.set()
            async with asyncio.timeout(LIMIT_S):
                await group.stop(600.0 if hurried else 0.2, hurry)
            wait_until_gone(*pids)
            assert group.exit_status == -signal.SIGKILL


async def test_leaving_the_context_kills_what_runs(tmp_path: Path) -> None:
    with process_reaper() as reaper:
        command = ["/bin/sh", "-c", STUBBORN]
        with reaper.start(command, tmp_path / "log", dict(os.environ)) as group:
            await until_ready(group)
            pids = members(group.pid)
        wait_until_gone(*pids)


def test_the_reaper_ends_the_groups_of_a_killed_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, sys, time
        from pathlib import Path
        from moegate.up.process import process_reaper
        with process_reaper() as reaper:
            command = ["/bin/sh", "-c", {STUBBORN!r}]
            with reaper.start(command, Path({str(tmp_path / "log")!r}), dict(os.environ)) as group:
                while group.last_line != "ready":
                    time.sleep(0.02)
                print(group.pid, flush=True)
                time.sleep(600)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        pids = members(group)
        assert len(pids) == 2
    finally:
        parent.kill()
        parent.communicate()
    wait_until_gone(*pids)
