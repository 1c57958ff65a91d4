"""The README's first commands run in their order, as they stand there, but on free ports."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def commands() -> list[str]:
    """The first block of `Run it`, without its remarks."""
    section = (ROOT / "README.md").read_text().split("## Run it", 1)[1]
    block = section.split("```", 2)[1]
    return [re.sub(r"\s+#.*", "", line) for line in block.strip().splitlines()]


async def test_the_commands_run_in_order(tmp_path: Path) -> None:
    engine, door = free_port(), free_port()
    for name in ("local.yaml", "local-prices.yaml"):
        shutil.copy(ROOT / "examples" / name, tmp_path / name)
    config = tmp_path / "local.yaml"
    text = config.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{engine}")
    text = text.replace("127.0.0.1:8090", "127.0.0.1:0")
    config.write_text(text.replace("server:\n", f"server:\n  listen: 127.0.0.1:{door}\n", 1))
    moegate = f"{sys.executable} -m moegate"
    target = f"--target 127.0.0.1:{door}"
    script = ["set -mex"]
    given = commands()
    assert [line.split()[1] for line in given if line.startswith(".venv/bin/moegate")] == [
        *("simulate-vllm", "serve", "chat", "top"),
    ]
    for line in given:
        line = line.replace("simulate-vllm", f"simulate-vllm --port {engine}")
        line = line.replace("examples/local.yaml", str(config))
        line = re.sub(r"(moegate (?:chat|top))", rf"\1 {target}", line)
        script.append(line.replace(".venv/bin/moegate", moegate))
        if " serve " in line:  # "wait until it says that it listens"
            script.append(
                f"until (exec 3<>/dev/tcp/127.0.0.1/{door}) 2>/dev/null; do sleep 0.1; done"
            )
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        "\n".join(script),
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(TIMEOUT_S):
        told, _ = await process.communicate()
    out = told.decode()
    assert process.returncode == 0, out
    assert f"moegate listens on 127.0.0.1:{door}" in out
    assert "moegate shows its console on 127.0.0.1:" in out
    assert "own/a" in out
