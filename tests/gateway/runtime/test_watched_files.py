"""Changes of the configuration file and of what it names are noticed, each of them once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from gateway.config.gateway import GatewayConfig, KeyConfig, TenantConfig
from gateway.config.ledger import LedgerConfig
from gateway.config.values import SecretConfig
from gateway.runtime.watched_files import named_files, watch_files
from tests import serving

LOOK_S = 0.02
BOUND_S = 30.0


def configuration(secret: str) -> GatewayConfig:
    key = KeyConfig(id="k", api_key=SecretConfig(file=secret))
    config = msgspec.structs.replace(
        serving.config(), tenants=(TenantConfig(name="t", keys=(key,)),), ledger=LedgerConfig()
    )
    server = msgspec.structs.replace(config.server, watch_files_s=LOOK_S)
    return msgspec.structs.replace(config, server=server)


class Mounted:
    """A folder as Kubernetes mounts a ConfigMap: names are links through one link to a version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = 0

    def put(self, **files: str) -> None:
        self.version += 1
        version = self.folder / f"..{self.version}"
        version.mkdir(parents=True)
        for name, text in files.items():
            (version / name).write_text(text)
        link = self.folder / "..part"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")


async def seen(count: list[None], wanted: int) -> None:
    async with asyncio.timeout(BOUND_S):
        while len(count) < wanted:
            await asyncio.sleep(LOOK_S)
    await asyncio.sleep(10 * LOOK_S)
    assert len(count) == wanted


async def test_a_swapped_link_and_a_rotated_secret_are_changes_once(tmp_path: Path) -> None:
    config, secrets = Mounted(tmp_path / "config"), Mounted(tmp_path / "secrets")
    config.put(moegate="a")
    secrets.put(key="one")
    active = configuration("../secrets/key")
    changes: list[None] = []
    path = tmp_path / "config" / "moegate"
    watching = asyncio.create_task(watch_files(path, lambda: active, lambda: changes.append(None)))
    await seen(changes, 0)
    config.put(moegate="b")
    await seen(changes, 1)
    secrets.put(key="two")
    await seen(changes, 2)
    # A file that is away for a moment: away and back are two changes, and nobody fails.
    path.unlink()
    await seen(changes, 3)
    path.symlink_to("..data/moegate")
    await seen(changes, 4)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


def test_what_the_gateway_writes_is_not_watched(tmp_path: Path) -> None:
    config = configuration("key")
    config = msgspec.structs.replace(config, ledger=LedgerConfig(sqlite="ledger", spool="spool"))
    for name in ("ledger", "spool", "key"):
        (tmp_path / name).write_text("x")
    assert named_files(config, tmp_path) == {tmp_path / "key"}
