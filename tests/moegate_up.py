"""`moegate up` as a process for tests: what it says, and what is left of what it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 120.0
"""Bound on every wait: generous, the machine is shared."""


@dataclass
class Running:
    """`moegate up` as a process, and what it has said."""

    process: asyncio.subprocess.Process
    directory: Path

    @property
    def out(self) -> str:
        return (self.directory / "out").read_text()

    @property
    def err(self) -> str:
        return (self.directory / "err").read_text()

    async def until_says(self, pattern: str, limit_s: float = LIMIT_S) -> str:
        """Waits for a line; returns the pattern's group 1."""
        async with asyncio.timeout(limit_s):
            while not (found := re.search(pattern, self.out + self.err)):
                assert self.process.returncode is None, self.err
                await asyncio.sleep(0.02)
        return found[1]

    async def until_serving(self, limit_s: float = LIMIT_S) -> str:
        """Waits until it shows the line to paste; returns it."""
        return await self.until_says(r"(?m)^(MOEGATE_API_KEY=.*)$", limit_s)

    @property
    def metadata(self) -> tuple[tuple[str, str]]:
        """With the key that it has shown."""
        found = re.search(r"MOEGATE_API_KEY=(\S+)", self.out)
        assert found, self.out
        return (("authorization", f"Bearer {found[1]}"),)

    async def until_worker(self) -> int:
        """Waits until vLLM has its worker; returns vLLM's process id."""
        pid = int(await self.until_says(r"vLLM starts as process (\d+)"))
        log = Path(await self.until_says(r"its log: (\S+)"))
        async with asyncio.timeout(LIMIT_S):
            while not said(log, "worker"):
                await asyncio.sleep(0.02)
        return pid

    async def ended(self) -> int:
        async with asyncio.timeout(LIMIT_S):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def up(directory: Path, *arguments: str) -> AsyncIterator[Running]:
    """Runs it on a free port; `directory`: for its output and its logs."""
    with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "moegate", "up", "--listen", "127.0.0.1:0", *arguments),
            cwd=ROOT,
            env=environment() | {"TMPDIR": str(directory)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        yield Running(process, directory)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def processes_of_session(pid: int) -> set[int]:
    """Processes of a session that run, or do so until somebody collects them."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == pid and fields[0] != "Z":
                found.add(int(stat.parent.name))
    return found


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while processes_of_session(pid):
            await asyncio.sleep(0.02)


async def shell(command: str) -> tuple[int | None, str, str]:
    """Runs a line as a person would paste it."""
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def environment() -> dict[str, str]:
    """The caller's, with moegate on the path."""
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}


def said(log: Path, word: str) -> bool:
    """Whether a log holds a word."""
    return word in log.read_text()
