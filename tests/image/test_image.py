"""The image, built from the Dockerfile by buildah and run by runc as Kubernetes would run it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import LedgerConfig
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from tests import serving
from tests.image.container import Container, build, install, root_file_system, settings

UNWANTED = {
    *("torch", "vllm", "pip", "setuptools", "wheel", "hatchling", "pytest", "matplotlib"),
    "grpcio-tools",
}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """The image's files."""
    install()
    build()
    with root_file_system() as folder:
        yield folder


def configuration(url: str) -> GatewayConfig:
    config = serving.config(pools=[serving.pool([url])])
    server = msgspec.structs.replace(config.server, listen="127.0.0.1:50951", drain_delay_s=0.0)
    ledger = LedgerConfig(sqlite="/var/lib/moegate/ledger.sqlite3")
    return msgspec.structs.replace(config, server=server, ledger=ledger)


async def test_the_image_serves_read_only_without_root_and_ends_on_sigterm(
    root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    os.chmod(tmp_path, 0o755)
    async with simulated_vllm(SimulatedVllmConfig(served_model_name="moe", speed=20.0)) as engine:
        path = folder / "moegate.yaml"
        path.write_bytes(msgspec.yaml.encode(configuration(engine.url)))
        container = Container(bundle, f"moegate-{os.getpid()}")
        try:
            container.start(root, folder)
            assert container.process is not None
            assert container.process.stdout is not None
            said = ""
            async with asyncio.timeout(serving.READY_S):
                while not ("moegate listens on" in said and "in service" in said):
                    line = await asyncio.to_thread(container.process.stdout.readline)
                    assert line, said
                    said += line
            ask = (
                *("moegate", "chat", "--target=127.0.0.1:50951", f"--key={serving.KEY}"),
                *("--max-output-tokens=8", "Say hello."),
            )
            answer = await asyncio.to_thread(container.execute, *ask)
            assert answer
            said = await asyncio.to_thread(
                container.execute, "sh", "-c", "id -u; grep -E 'CapEff|NoNewPrivs' /proc/1/status"
            )
            assert said.split() == ["10001", "CapEff:", "0" * 16, "NoNewPrivs:", "1"]
            refused = await asyncio.to_thread(
                container.execute, "sh", "-c", "touch /opt/moegate/x 2>&1 || true"
            )
            assert "Read-only file system" in refused
            status, rest = await asyncio.to_thread(container.terminate)
            assert status == 0, rest
            assert '"stopped"' in rest
        finally:
            container.remove()


def test_what_the_image_holds_and_says(root: Path) -> None:
    packages = next((root / "opt/moegate/lib").glob("python3*/site-packages"))
    names = {
        file.stem.rpartition("-")[0].lower().replace("_", "-")
        for file in packages.glob("*.dist-info")
    }
    assert {"moegate", "grpcio", "asyncpg"} <= names
    assert not UNWANTED & names
    assert not list((root / "usr/local/lib").glob("python3*/site-packages/*"))
    # Nobody can become another user through a file of the gateway's.
    for file in (root / "opt/moegate").rglob("*"):
        if not file.is_symlink():
            assert not file.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID), file
    found = settings()
    assert found["User"] == "10001:10001"
    assert found["Labels"]["org.opencontainers.image.version"] == "0.0.1"
    assert found["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    ports = {"50051/tcp", "50052/tcp", "8080/tcp", "8090/tcp", "9464/tcp"}
    assert set(found["ExposedPorts"]) == ports
