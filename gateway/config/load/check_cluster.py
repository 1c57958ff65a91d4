"""Checks of `cluster`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.config.gateway import GatewayConfig
from gateway.config.problems import ConfigError, Problem, problem
from gateway.config.resolve.tls_files import cluster_files

LAST_PORT = 65_534
"""The next port is taken, too."""


def cluster_problems(config: GatewayConfig, base_dir: Path) -> Iterator[Problem]:
    """Problems of `cluster`, and of what does not go with it."""
    cluster, ledger = config.cluster, config.ledger
    if cluster is None:
        return
    if ledger.postgres is None:
        message = "a cluster without a database: SQLite is for one gateway, without a standby"
        yield problem(
            "cluster", cluster.name, message, "give ledger.postgres, or leave cluster out"
        )
    if ledger.gateway is not None:
        message = "the leader writes to the ledger in the name of the cluster"
        yield problem("ledger.gateway", ledger.gateway, message, "leave it out")
    if ledger.spool is not None:
        message = "in a cluster, what the leader has not written is reported again by the fronts"
        yield problem("ledger.spool", ledger.spool, message, "leave it out")
    if config.metering.state is not None:
        message = "in a cluster, the ledger keeps the state of the meter"
        yield problem("metering.state", config.metering.state, message, "leave it out")
    port = int(cluster.listen.rpartition(":")[2])
    if not 1 <= port <= LAST_PORT:
        message = "the port and the next one are taken"
        yield problem(
            "cluster.listen", cluster.listen, message, f"choose one from 1 to {LAST_PORT}"
        )
    try:
        cluster_files(cluster.tls).check(base_dir)
    except ConfigError as error:
        yield from error.problems
