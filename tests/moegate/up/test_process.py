"""Process trees: each ends with its context, and with its parent, however that one ends."""

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

from moegate.up.process import ProcessTree, running
from moegate.up.process_keeper import descendants

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 20.0
ESCAPING = "setsid sh -c 'trap \"\" TERM; echo ready; sleep 600; true' & wait"
"""Its child leads a session of its own, and lives on without it."""
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


async def until_ready(group: ProcessTree) -> None:
    async with asyncio.timeout(LIMIT_S):
        while group.last_line != "ready":
            await asyncio.sleep(0.02)


async def test_the_exit_status_and_the_end_of_the_log_are_told(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "echo first; echo; echo 'the   last'; echo; exit 3"]
    with running(command, tmp_path / "log", dict(os.environ)) as group:
        assert await group.wait() == 3
        assert group.last_line == "the last"
        assert "first" in group.failure()


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_group_that_ignores_sigterm_is_killed_as_a_whole(
    tmp_path: Path, hurried: bool
) -> None:
    hurry = asyncio.Event()
    command = ["/bin/sh", "-c", STUBBORN]
    with running(command, tmp_path / "log", dict(os.environ)) as group:
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
    command = ["/bin/sh", "-c", STUBBORN]
    with running(command, tmp_path / "log", dict(os.environ)) as group:
        await until_ready(group)
        pids = members(group.pid)
    wait_until_gone(*pids)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("ending", ["command", "keeper's stop", "moegate's kill", "context"])
async def test_a_child_that_left_the_session_ends_too(tmp_path: Path, ending: str) -> None:
    with running(["/bin/sh", "-c", ESCAPING], tmp_path / "log", dict(os.environ)) as tree:
        await until_ready(tree)
        below = descendants(tree.pid)
        assert below
        assert not set(below) & set(members(tree.pid))
        match ending:
            case "command":
                os.kill(tree.pid, signal.SIGKILL)
                async with asyncio.timeout(LIMIT_S):
                    assert await tree.wait() == -signal.SIGKILL
            case "keeper's stop":
                async with asyncio.timeout(LIMIT_S):
                    await tree.stop(600.0, asyncio.Event())
            case "moegate's kill":
                tree.kill()
        if ending != "context":
            assert not any(map(runs, [tree.pid, *below]))
    assert not any(map(runs, [tree.pid, *below]))


async def test_the_command_does_not_outlive_its_keeper(tmp_path: Path) -> None:
    with running(["/bin/sleep", "600"], tmp_path / "log", dict(os.environ)) as tree:
        os.kill(parent_of(tree.pid), signal.SIGKILL)
        wait_until_gone(tree.pid)


async def test_what_cannot_be_executed_ends_with_its_reason(tmp_path: Path) -> None:
    with running([str(tmp_path / "none")], tmp_path / "log", dict(os.environ)) as tree:
        async with asyncio.timeout(LIMIT_S):
            assert await tree.wait() == 127
        assert "none: No such file or directory" in tree.failure()


@pytest.mark.parametrize("command", [STUBBORN, ESCAPING], ids=["stubborn", "escaping"])
def test_the_keeper_ends_the_tree_of_a_killed_parent(tmp_path: Path, command: str) -> None:
    script = textwrap.dedent(
        f"""
        import os, sys, time
        from pathlib import Path
        from moegate.up.process import running
        command = ["/bin/sh", "-c", {command!r}]
        with running(command, Path({str(tmp_path / "log")!r}), dict(os.environ)) as group:
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
        pids = [group, *descendants(group)]
        assert len(pids) >= 2
    finally:
        parent.kill()
        parent.communicate()
    wait_until_gone(*pids)
