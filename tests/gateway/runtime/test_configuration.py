"""Everything of a configuration that can be wrong is found before anything is put into force."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.config.gateway import KeyConfig, TenantConfig
from gateway.config.prices import PricesConfig
from gateway.config.problems import ConfigError
from gateway.config.values import SecretConfig
from gateway.runtime.configuration import prepare
from tests import serving

CONFIG = serving.config(
    pools=[serving.pool(["http://127.0.0.1:9", "http://127.0.0.1:10"])],
    remotes=[serving.remote("http://127.0.0.1:11")],
)


def test_every_part_has_the_same_placements(tmp_path: Path) -> None:
    prepared = prepare(CONFIG, tmp_path)
    names = [placement.name for placement in prepared.scheduling.placements]
    assert names == ["own/a", "own/b", "far"]
    assert [remote.name for remote, _ in prepared.fleet.remotes] == ["far"]
    [(pool, _)] = prepared.fleet.pools
    assert [f"{pool.name}/{replica.name}" for replica in pool.replicas] == names[:2]
    assert prepared.config is CONFIG
    assert prepared.scheduling.hedges.share == 0.0


def test_a_missing_catalog_is_found(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, prices=PricesConfig(catalog="missing.yaml"))
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        prepare(config, tmp_path)


def test_a_missing_secret_is_found(tmp_path: Path) -> None:
    key = KeyConfig(id="k", api_key=SecretConfig(file="missing.key"))
    config = msgspec.structs.replace(CONFIG, tenants=(TenantConfig(name="team", keys=(key,)),))
    with pytest.raises(ConfigError, match=r"missing\.key"):
        prepare(config, tmp_path)
