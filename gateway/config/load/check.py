"""Checks between the fields of a configuration whose shape is valid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from gateway.config.gateway import (
    GatewayConfig,
    KeyConfig,
    MoeShapeConfig,
    PoolConfig,
    RemoteConfig,
    SecretConfig,
    TimeoutsConfig,
)
from gateway.config.limits import LimitsConfig
from gateway.config.load.check_adapters import adapter_problems
from gateway.config.load.check_cluster import cluster_problems
from gateway.config.load.check_console import console_problems
from gateway.config.load.check_discovery import discovery_problems
from gateway.config.load.check_engines import engine_problems
from gateway.config.load.check_gateway import shared_class_problems
from gateway.config.load.check_grpc_port import grpc_port_problems
from gateway.config.load.check_kv_events import kv_events_problems
from gateway.config.load.check_ledger import ledger_problems
from gateway.config.load.check_ranks import rank_problems
from gateway.config.load.check_remote import (
    POOL_RESERVED_FIELDS,
    extra_body_problems,
    remote_problems,
)
from gateway.config.load.check_tasks import task_problems
from gateway.config.problems import ConfigError, Problem, problem
from gateway.config.resolve.api_keys import key_hash
from gateway.config.resolve.key_problems import key_problems
from gateway.config.resolve.secrets import resolve
from gateway.config.resolve.step_model_prior import checked_step_model_prior
from gateway.config.resolve.tls_files import server_files
from gateway.config.server import ServerConfig
from gateway.config.telemetry import MOST_METRIC_LABELS, label_name
from scheduler.contract import Objective

MAX_PORT = 65_535


def semantic_problems(config: GatewayConfig, base_dir: Path) -> Iterator[Problem]:
    """Every problem between fields, and every secret that cannot be read."""
    if not config.pools and not config.remotes:
        yield Problem(
            path="pools",
            value="nothing",
            message="there is neither a pool nor a remote: nothing could serve a request",
            fix="add a pool, or a remote",
        )
    yield from _listen(config)
    yield from _metric_labels(config)
    yield from _tls(config.server, base_dir)
    yield from _names(config)
    yield from _hashes(config, base_dir)
    yield from _addresses(config)
    yield from discovery_problems(config.pools)
    yield from shared_class_problems(config)
    yield from kv_events_problems(config.pools)
    yield from grpc_port_problems(config.pools)
    yield from rank_problems(config.pools)
    yield from adapter_problems(config.pools)
    yield from engine_problems(config.pools)
    yield from task_problems(config)
    yield from _contexts(config.pools)
    yield from _objectives(config.pools)
    for path, upstream in _upstreams(config):
        yield from _timeouts(f"{path}.timeouts", upstream.timeouts)
        yield from _secret(f"{path}.api_key", upstream.api_key, base_dir)
        if isinstance(upstream, PoolConfig) and upstream.moe is not None:
            yield from _moe(f"{path}.moe", upstream.moe)
        if isinstance(upstream, RemoteConfig):
            yield from remote_problems(path, upstream, base_dir)
        if isinstance(upstream, PoolConfig):
            yield from extra_body_problems(
                f"{path}.extra_body_json", upstream.extra_body_json, POOL_RESERVED_FIELDS
            )
            yield from _prior(path, upstream, base_dir)
    for path, key in _keys(config):
        yield from key_problems(path, key, config)
    yield from ledger_problems(config, base_dir)
    yield from cluster_problems(config, base_dir)
    yield from console_problems(config, base_dir)
    yield from _limits(config.limits)


def _limits(limits: LimitsConfig) -> Iterator[Problem]:
    if limits.message_bytes > limits.queue_bytes:
        yield problem(
            "limits.queue_bytes",
            limits.queue_bytes,
            "the largest message would never fit into the queue",
            f"at least limits.message_bytes, {limits.message_bytes}",
        )
    for default_name, most_name in (
        ("default_deadline_s", "max_deadline_s"),
        ("default_max_output_tokens", "max_output_tokens"),
    ):
        default, most = getattr(limits, default_name), getattr(limits, most_name)
        if default > most:
            message = f"above limits.{most_name}, {most:g}"
            fix = f"lower it, or raise limits.{most_name}"
            yield problem(f"limits.{default_name}", default, message, fix)


def _upstreams(config: GatewayConfig) -> Iterator[tuple[str, PoolConfig | RemoteConfig]]:
    yield from ((f"pools[{i}]", pool) for i, pool in enumerate(config.pools))
    yield from ((f"remotes[{i}]", remote) for i, remote in enumerate(config.remotes))


def _keys(config: GatewayConfig) -> Iterator[tuple[str, KeyConfig]]:
    for t, tenant in enumerate(config.tenants):
        yield from ((f"tenants[{t}].keys[{k}]", key) for k, key in enumerate(tenant.keys))


def _unique(items: Iterable[tuple[str, str]], fix: str, among: str) -> Iterator[Problem]:
    """Values that occur twice. `items`: path and value."""
    first: dict[str, str] = {}
    for path, value in items:
        if value in first:
            yield problem(path, value, f"the same as {first[value]}, not unique {among}", fix)
        else:
            first[value] = path


def _names(config: GatewayConfig) -> Iterator[Problem]:
    another = "choose another name"
    upstreams = [(f"{path}.name", upstream.name) for path, upstream in _upstreams(config)]
    yield from _unique(upstreams, another, "among pools and remotes")
    for p, pool in enumerate(config.pools):
        replicas = [
            (f"pools[{p}].replicas[{r}].name", replica.name)
            for r, replica in enumerate(pool.replicas)
        ]
        yield from _unique(replicas, another, "in its pool")
    tenants = [(f"tenants[{t}].name", tenant.name) for t, tenant in enumerate(config.tenants)]
    yield from _unique(tenants, another, "among tenants")
    ids = [(f"{path}.id", key.id) for path, key in _keys(config)]
    yield from _unique(ids, "choose another id", "among all keys")


def _hashes(config: GatewayConfig, base_dir: Path) -> Iterator[Problem]:
    hashes: list[tuple[str, str]] = []
    for path, key in _keys(config):
        field = "sha256" if key.api_key is None else "api_key"
        try:
            hashes.append((f"{path}.{field}", key_hash(key, base_dir)))
        except ConfigError as error:
            yield from (each.under(path) for each in error.problems)
    yield from _unique(hashes, "make another key with `moegate key`", "among all keys")


def _listen(config: GatewayConfig) -> Iterator[Problem]:
    addresses = (
        ("server.listen", config.server.listen),
        ("server.health_listen", config.server.health_listen),
        ("server.scaler_listen", config.server.scaler_listen),
        ("telemetry.metrics_listen", config.telemetry.metrics_listen),
        ("cluster.listen", None if config.cluster is None else config.cluster.listen),
    )
    fixed = [(path, at) for path, at in addresses if at is not None and not at.endswith(":0")]
    for path, listen in addresses:
        if listen is not None and int(listen.rpartition(":")[2]) > MAX_PORT:
            message = f"the port is above {MAX_PORT}"
            yield problem(path, listen, message, f"choose one from 0 to {MAX_PORT}")
    yield from _unique(fixed, "give each its own port", "among the addresses to listen on")


def _metric_labels(config: GatewayConfig) -> Iterator[Problem]:
    names = [
        (f"telemetry.metric_labels[{i}]", label_name(key))
        for i, key in enumerate(config.telemetry.metric_labels)
    ]
    if len(names) > MOST_METRIC_LABELS:
        yield problem(
            "telemetry.metric_labels",
            str(len(names)),
            "each label multiplies the series of the metric",
            f"name at most {MOST_METRIC_LABELS}",
        )
    yield from _unique(names, "name labels that differ in more than dots and hyphens", "as metrics")


def _tls(server: ServerConfig, base_dir: Path) -> Iterator[Problem]:
    try:
        if server.tls is not None:
            server_files(server.tls).check(base_dir)
    except ConfigError as error:
        yield from error.problems


def _addresses(config: GatewayConfig) -> Iterator[Problem]:
    replicas = [
        (f"pools[{p}].replicas[{r}].url", replica.url)
        for p, pool in enumerate(config.pools)
        for r, replica in enumerate(pool.replicas)
    ]
    remotes = [(f"remotes[{i}].url", remote.url) for i, remote in enumerate(config.remotes)]
    first: dict[tuple[str, str, int | None, str], str] = {}
    for path, url in [*replicas, *remotes]:
        try:
            parts = urlsplit(url)
            host = _host(parts)
            address = (parts.scheme, host, parts.port, parts.path.rstrip("/"))
        except ValueError as error:  # a port out of range, an IPv6 address without its end
            message = f"not an address: {error}"
            yield problem(path, url, message, "write http://host:port")
            continue
        if parts.path.rstrip("/").endswith("/v1"):
            yield problem(path, url, "the gateway adds /v1 itself", "leave /v1 out")
        if path.startswith("remotes"):
            continue  # one remote API may well serve several models
        if address in first:
            # One engine would count as two placements, each with the load of both.
            message = f"the same server as {first[address]}"
            yield problem(path, url, message, "give every replica its own address")
        else:
            first[address] = path


def _host(parts: SplitResult) -> str:
    """The host of an address. Raises ValueError if nothing can be connected to there."""
    host = parts.hostname or ""
    if not host or "\\" in host:
        raise ValueError("it names no host")
    if parts.port == 0:
        raise ValueError("nothing listens on port 0")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("its host has an empty or too long part") from None
    return host


def _contexts(pools: tuple[PoolConfig, ...]) -> Iterator[Problem]:
    first: dict[str, tuple[str, int]] = {}
    for i, pool in enumerate(pools):
        if pool.context_tokens is None:
            continue
        path = f"pools[{i}].context_tokens"
        other, tokens = first.setdefault(pool.model, (path, pool.context_tokens))
        if tokens != pool.context_tokens:
            message = f"{other} is {tokens} for the same model: clients see one limit a model"
            yield problem(path, pool.context_tokens, message, "give both pools the same")


def _objectives(pools: tuple[PoolConfig, ...]) -> Iterator[Problem]:
    first: dict[str, tuple[str, Objective]] = {}
    for i, pool in enumerate(pools):
        path = f"pools[{i}].objective"
        other, objective = first.setdefault(pool.model, (path, pool.objective))
        if objective is not pool.objective:
            message = f"{other} is {objective} for the same model: its requests choose among both"
            yield problem(path, pool.objective.value, message, "give both pools the same")


def _timeouts(path: str, timeouts: TimeoutsConfig) -> Iterator[Problem]:
    for low, high in [*pairwise(("connect_s", "first_token_s", "total_s")), ("idle_s", "total_s")]:
        short, long = getattr(timeouts, low), getattr(timeouts, high)
        if short > long:
            message = f"longer than {high}, {long:g} s, so that it would never take effect"
            yield problem(f"{path}.{low}", short, message, f"lower {low}, or raise {high}")


def _secret(path: str, secret: SecretConfig | None, base_dir: Path) -> Iterator[Problem]:
    try:
        resolve(secret, base_dir)
    except ConfigError as error:
        yield from (each.under(path) for each in error.problems)


def _moe(path: str, moe: MoeShapeConfig) -> Iterator[Problem]:
    if moe.experts_per_token > moe.experts:
        message = f"more than experts, {moe.experts}"
        fix = "see num_experts and num_experts_per_tok in the model's config.json"
        yield problem(f"{path}.experts_per_token", moe.experts_per_token, message, fix)


def _prior(path: str, pool: PoolConfig, base_dir: Path) -> Iterator[Problem]:
    try:
        checked_step_model_prior(pool, base_dir)
    except ConfigError as error:
        yield from (each.under(path) for each in error.problems)
