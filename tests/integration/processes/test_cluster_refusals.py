"""What `moegate serve` refuses in a cluster, before it does anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.problems import ConfigError
from gateway.server import serve
from tests.stack.gateways.cluster import write_certificates

FILE = """
remotes:
  - {name: r, remote_class: eu, model: m, url: "https://api.example.com"}
ledger: {postgres: {file: dsn}}
cluster: {tls: {cert: tls.crt, key: tls.key, ca: ca.crt}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_certificates(tmp_path)
    (tmp_path / "dsn").write_text("postgresql://u:p@127.0.0.1:9/d")
    (tmp_path / "dsn").chmod(0o600)
    found = tmp_path / "moegate.yaml"
    found.write_text(FILE)
    return found


async def test_each_gateway_of_a_cluster_is_one_front(file: Path) -> None:
    with pytest.raises(ConfigError, match="each gateway of a cluster is one front"):
        await serve(file, "INFO", 2)


async def test_a_database_that_does_not_answer_at_the_start_is_told(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster: .*Connect call failed"):
        await serve(file, "INFO")
