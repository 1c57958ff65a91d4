"""Checks of the ports at which replicas tell what they are (`grpc_port`)."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from gateway.config.gateway import PoolConfig
from gateway.config.problems import Problem, problem


def grpc_port_problems(pools: tuple[PoolConfig, ...]) -> Iterator[Problem]:
    """Every replica whose gRPC port is its HTTP port, or that of another replica."""
    first: dict[tuple[str | None, int], str] = {}
    for i, pool in enumerate(pools):
        for j, replica in enumerate(pool.replicas):
            if (port := replica.grpc_port or pool.grpc_port) is None:
                continue
            name = f"pools[{i}].replicas[{j}]"
            url = urlsplit(replica.url)
            if port == (url.port or (443 if url.scheme == "https" else 80)):
                message = "it is the port of the url: vLLM serves gRPC on another one"
                yield problem(f"{name}.grpc_port", port, message, "give that of --grpc-port")
            other = first.setdefault((url.hostname, port), name)
            if other != name:
                message = f"{other} has it on the same host: two servers cannot share a port"
                yield problem(f"{name}.grpc_port", port, message, "give each its own grpc_port")
