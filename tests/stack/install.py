"""Installs what this suite runs beside the gateway: packages of Debian, as root."""

from __future__ import annotations

import os
import subprocess

TIMEOUT_S = 300


def apt_install(*packages: str) -> None:
    """Installs packages. Raises RuntimeError: the suite fails where it cannot have its stack."""
    if os.geteuid() != 0:
        raise RuntimeError(f"make test-stack needs {', '.join(packages)}: install, or run as root")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ("apt-get", "update", "-qq"),
        ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages),
    ):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
