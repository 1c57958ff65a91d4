"""`cluster` in the configuration: mistakes are named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trustme

from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import LedgerConfig
from gateway.config.load.check_cluster import cluster_problems
from gateway.config.load.file import load
from gateway.config.prices import MeteringConfig
from gateway.config.problems import ConfigError
from gateway.config.server import ClusterConfig, ClusterTlsConfig
from gateway.config.values import SecretConfig

TLS = ClusterTlsConfig(cert="tls.crt", key="tls.key", ca="ca.crt")
POSTGRES = LedgerConfig(postgres=SecretConfig(env="DSN"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = trustme.CA()
    pair = authority.issue_cert("moegate")
    pair.private_key_pem.write_to_path(tmp_path / "tls.key")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    return tmp_path


def problems(
    folder: Path, ledger: LedgerConfig = POSTGRES, listen: str = "0.0.0.0:50061"
) -> list[tuple[str, str]]:
    config = GatewayConfig(ledger=ledger, cluster=ClusterConfig(tls=TLS, listen=listen))
    return [(p.path, p.message) for p in cluster_problems(config, folder)]


def test_a_cluster_on_postgresql_is_right(folder: Path) -> None:
    assert problems(folder) == []
    assert list(cluster_problems(GatewayConfig(), folder)) == []


def test_sqlite_is_for_one_gateway(folder: Path) -> None:
    [(path, message)] = problems(folder, LedgerConfig())
    assert path == "cluster"
    assert "SQLite is for one gateway, without a standby" in message


@pytest.mark.parametrize(
    ("field", "value"), [("gateway", "gw-1"), ("spool", "/var/lib/moegate/spool")]
)
def test_what_the_ledger_of_a_cluster_has_not(folder: Path, field: str, value: str) -> None:
    [(path, _)] = problems(folder, msgspec.structs.replace(POSTGRES, **{field: value}))
    assert path == f"ledger.{field}"


def test_the_state_of_the_meter_is_in_the_ledger(folder: Path) -> None:
    config = GatewayConfig(
        ledger=POSTGRES,
        cluster=ClusterConfig(tls=TLS),
        metering=MeteringConfig(state="meter.json"),
    )
    [found] = cluster_problems(config, folder)
    assert found.path == "metering.state"


@pytest.mark.parametrize("port", [0, 65_535])
def test_the_next_port_is_needed(folder: Path, port: int) -> None:
    assert problems(folder, listen=f"0.0.0.0:{port}") == [
        ("cluster.listen", "the port and the next one are taken")
    ]


def test_a_file_that_cannot_be_used_is_named(folder: Path) -> None:
    (folder / "ca.crt").unlink()
    assert problems(folder) == [("cluster.tls.ca", "No such file or directory")]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("cluster: {tls: {cert: a, key: b, ca: c}, secret: x}", "cluster.secret"),
        ("cluster: {tls: {cert: a, key: b}}", "cluster.tls.ca"),
        ("cluster: {tls: {cert: a, key: b, ca: c, member: 'A b'}}", "cluster.tls.member"),
        ("cluster: {tls: {cert: a, key: b, ca: c}, advertise: 'h:1'}", "cluster.advertise"),
        ("cluster: {}", "cluster.tls"),
    ],
)
def test_shapes_are_refused(tmp_path: Path, text: str, path: str) -> None:
    file = tmp_path / "moegate.yaml"
    file.write_text(f"remotes: []\n{text}\n")
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert path in [problem.path for problem in refused.value.problems]
