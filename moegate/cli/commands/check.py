"""`moegate check FILE`: prints the problems of a configuration file, or its summary."""

from __future__ import annotations

import argparse
import errno
import json
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from gateway.config.discovery import DiscoveryConfig
from gateway.config.gateway import GatewayConfig, GpuConfig, PoolConfig, RemoteConfig, TenantConfig
from gateway.config.load.file import ConfigError, load
from gateway.config.problems import Problem, problem
from gateway.config.resolve.step_model_prior import checked_step_model_prior
from gateway.config.syntax.schema import json_schema
from gateway.domain.listening import open_sockets
from gateway.fleet.placements import ASSUMED_MAX_NUM_SEQS
from gateway.runtime.startup import startable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument("file", type=Path, nargs="?", help="configuration file (YAML)")
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON schema of the file instead"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0 if the file is valid, 1 if it is not, 2 if no file was given."""
    if args.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    if args.file is None:
        print("moegate check: name a file, or give --schema", file=sys.stderr)
        return 2
    try:
        config = load(args.file)
        _, warnings = startable(config, args.file.parent, str(args.file), time.time())
        warnings += _unusable_addresses(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{args.file}: OK")
    for line in _summary(config, args.file.parent):
        print(f"  {line}")
    for warning in warnings:
        print(f"warning: {warning}")
    return 0


def _unusable_addresses(config: GatewayConfig) -> Iterator[Problem]:
    """Yields a warning for each address that this computer cannot listen on. It may be checked on
    another one. An address in use is no problem: the gateway may be running."""
    for path, listen in (
        ("server.listen", config.server.listen),
        ("server.health_listen", config.server.health_listen),
        ("telemetry.metrics_listen", config.telemetry.metrics_listen),
    ):
        if listen is None:
            continue
        try:
            for opened in open_sockets(listen):
                opened.close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                message = f"this computer cannot listen there: {error.strerror or error}"
                yield problem(path, listen, message, "give an address of the gateway's computer")


def _summary(config: GatewayConfig, base_dir: Path) -> Iterator[str]:
    yield f"listens on {config.server.listen}"
    for pool in config.pools:
        yield _pool_line(pool)
        prior = checked_step_model_prior(pool, base_dir)
        yield f"  its step times before any was seen: {prior.basis}"
        if pool.adapters is not None:
            names = ", ".join(adapter.model for adapter in pool.adapters.models) or "none by name"
            others = ", and those that its servers list" if pool.adapters.discover else ""
            yield f"  its LoRA adapters: {names}{others}"
        if pool.max_num_seqs is None:
            asked = pool.grpc_port or any(replica.grpc_port for replica in pool.replicas)
            until = ", until its servers tell theirs" if asked else ""
            yield f"  its max_num_seqs is assumed: {ASSUMED_MAX_NUM_SEQS}{until}"
    yield from (_remote_line(remote) for remote in config.remotes)
    yield from (_tenant_line(tenant) for tenant in config.tenants)
    if not any(tenant.keys for tenant in config.tenants):
        yield "no keys: nobody can call (see `moegate key`)"


def _pool_line(pool: PoolConfig) -> str:
    replicas = len(pool.replicas)
    if pool.discover is not None:
        return (
            f"pool {pool.name}: {pool.model} on the replicas that {_finder(pool.discover)}, "
            f"at most {pool.discover.max_replicas}; each {_count(pool.gpu.count, 'GPU')} "
            f"({pool.gpu.type}), {_price(pool.gpu, 1)}"
        )
    return (
        f"pool {pool.name}: {pool.model} on {_count(replicas, 'replica')}, "
        f"{_count(replicas * pool.gpu.count, 'GPU')} ({pool.gpu.type}), "
        f"{_price(pool.gpu, replicas)}"
    )


def _finder(discover: DiscoveryConfig) -> str:
    if discover.dns is not None:
        return f"DNS has for {discover.dns}"
    return f"Kubernetes has for {discover.endpoint_slices}"


def _price(gpu: GpuConfig, replicas: int) -> str:
    if gpu.usd_per_gpu_hour is None:
        return "price unknown"
    return f"${Decimal(gpu.usd_per_gpu_hour) * gpu.count * replicas:,f}/h"


def _remote_line(remote: RemoteConfig) -> str:
    return (
        f"remote {remote.name}: {remote.model}, class {remote.remote_class}, "
        f"at most {_count(remote.max_concurrency, 'request')} at once"
    )


def _tenant_line(tenant: TenantConfig) -> str:
    keys = ", ".join(f"{key.id} ({key.role})" for key in tenant.keys)
    return f"tenant {tenant.name}: {_count(len(tenant.keys), 'key')}{': ' if keys else ''}{keys}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
