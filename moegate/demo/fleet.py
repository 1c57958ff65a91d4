"""The fleet of the demo: simulated replicas, a simulated remote, and the gateway.

The replicas are `moegate simulate-vllm` processes with the step times of a MoE model. They are
slowed down, so that the fleet generates about a thousand tokens a second, which two CPU cores can
simulate.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.config.gateway import (
    GatewayConfig,
    GpuConfig,
    KeyConfig,
    KeyRole,
    PoolConfig,
    RemoteConfig,
    ReplicaConfig,
    SecretConfig,
    SloClassesConfig,
    SloFiguresConfig,
    TenantConfig,
)
from gateway.config.ledger import BudgetConfig
from gateway.config.limits import LimitsConfig
from gateway.config.prices import PricesConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.server import ServerConfig
from gateway.config.telemetry import TelemetryConfig
from moegate.demo.catalog import PROVIDER, catalog
from moegate.demo.cost_comparison import RemotePrice
from moegate.demo.processes import POLL_S, READY_S, Process, Processes, ProcessFailed
from moegate.v1 import inference_pb2, inference_pb2_grpc
from scheduler.budgets.budget_window import Period

MODEL = "Qwen3-30B-A3B"
REPLICAS = 3
SEQUENCES = 16
"""Sequences that one replica runs at once."""
SPEED = 1 / 3
"""Speed of the replicas: a full one generates about 310 tokens a second, in steps of 51 ms."""
REMOTE_SEQUENCES, REMOTE_SPEED = 24, 0.5
KV_TOKENS = 12_288
"""KV cache of one engine, and its context length. `SEQUENCES` fill the larger part of it."""
QUEUE_REQUESTS = 24
"""Small, so that the burst fills the queue within seconds and overflows to the remote."""
USD_PER_GPU_HOUR = "2.50"
"""Price of one H100 for an hour: an assumption of the demo, close to the prices of clouds."""
REMOTE_PRICE = RemotePrice(
    input=Decimal("0.56"), cached_input=Decimal("0.056"), output=Decimal("8.96")
)
"""Price per million tokens. Output costs four times as much as on a full replica (310 tokens a
second at `USD_PER_GPU_HOUR` are $2.24 a million)."""
BUDGET_USD = "0.25"
"""Hourly budget of the first tenant. A minute of the demo uses the larger part of it."""
CATALOG = "prices.yaml"
POOL, REMOTE = "own", "remote"
REMOTE_KEY = "MOEGATE_DEMO_REMOTE_KEY"
"""Environment variable with the remote's key for the gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The running fleet. `keys`: one for each tenant; `operator_key`: for the console. URLs and
    engines are keyed by placement."""

    address: str
    console_address: str
    operator_key: str
    keys: Sequence[str]
    replica_urls: Mapping[str, str]
    remote_urls: Mapping[str, str]
    engines: Mapping[str, Process]
    usd_per_hour: float


async def start(
    processes: Processes,
    directory: Path,
    tenants: int,
    *,
    console_listen: str = "127.0.0.1:0",
    metrics_listen: str | None = None,
) -> Fleet:
    """Starts all processes, and returns when every replica is in service. Raises ProcessFailed.

    `console_listen`: address of the gateway's console. `metrics_listen`: address of its metrics
    page; None: no page.
    """
    remote_key = secrets.token_urlsafe(24)
    arguments = {
        f"{POOL}/{name}": _engine(SPEED, SEQUENCES, seed) for seed, name in enumerate(_names())
    }
    arguments[REMOTE] = _engine(REMOTE_SPEED, REMOTE_SEQUENCES, REPLICAS)
    # Started together, because each needs some time for its imports. Only the remote has a key,
    # whatever the environment of the demo contains.
    engines = {
        name: await processes.start(
            name, args, {"VLLM_API_KEY": remote_key if name == REMOTE else ""}
        )
        for name, args in arguments.items()
    }
    urls = {
        name: await process.wait_for_line(r"simulated vLLM on (http://\S+)")
        for name, process in engines.items()
    }
    keys = [f"mg-{secrets.token_urlsafe(24)}" for _ in range(tenants)]
    operator_key = f"mg-{secrets.token_urlsafe(24)}"
    server = ServerConfig(
        listen="127.0.0.1:0",
        console_listen=console_listen,
        drain_delay_s=0.0,
        drain_s=5.0,
        probe_interval_s=0.5,
    )
    tenants_with_keys = _tenants(keys, operator_key)
    file = directory / "moegate.yaml"
    file.write_bytes(msgspec.yaml.encode(_config(server, urls, tenants_with_keys, metrics_listen)))
    (directory / CATALOG).write_bytes(catalog(POOL, MODEL, REMOTE_PRICE))
    gateway = await processes.start(
        "gateway", ("serve", str(file), "--log-level", "WARNING"), {REMOTE_KEY: remote_key}
    )
    address = await gateway.wait_for_line(r"moegate listens on (\S+)")
    console_address = await gateway.wait_for_line(r"moegate shows its console on (\S+)")
    await _until_serving(address, keys[0], gateway)
    return Fleet(
        address=address,
        console_address=console_address,
        operator_key=operator_key,
        keys=keys,
        replica_urls={name: url for name, url in urls.items() if name != REMOTE},
        remote_urls={REMOTE: urls[REMOTE]},
        engines=engines,
        usd_per_hour=REPLICAS * float(USD_PER_GPU_HOUR),
    )


def channel(address: str) -> grpc.aio.Channel:
    """A channel to the gateway on loopback. It ignores a proxy in the environment."""
    return grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0)])


def _names() -> list[str]:
    return [chr(ord("a") + i) for i in range(REPLICAS)]


def _engine(speed: float, sequences: int, seed: int, *more: str) -> tuple[str, ...]:
    """Arguments of a simulated engine; `speed` 1 is Qwen3-30B-A3B on an H100."""
    return (
        *("simulate-vllm", "--port", "0", "--served-model-name", MODEL),
        *("--speed", str(speed), "--max-num-seqs", str(sequences), "--seed", str(seed)),
        *("--max-model-len", str(KV_TOKENS), "--num-gpu-blocks", str(KV_TOKENS // 16)),
        "--enable-prompt-tokens-details",
        *more,
    )


def _tenants(keys: Sequence[str], operator_key: str) -> tuple[TenantConfig, ...]:
    callers = tuple(
        TenantConfig(name=f"tenant-{i}", keys=(KeyConfig(id=f"key-{i}", sha256=key_sha256(key)),))
        for i, key in enumerate(keys)
    )
    operator = KeyConfig(id="operator", role=KeyRole.OPERATOR, sha256=key_sha256(operator_key))
    return (*callers, TenantConfig(name="operators", keys=(operator,)))


def _config(
    server: ServerConfig,
    urls: Mapping[str, str],
    tenants: tuple[TenantConfig, ...],
    metrics_listen: str | None,
) -> GatewayConfig:
    pool = PoolConfig(
        name=POOL,
        model=MODEL,
        replicas=tuple(ReplicaConfig(name=name, url=urls[f"{POOL}/{name}"]) for name in _names()),
        gpu=GpuConfig(type="H100-80GB", count=1, usd_per_gpu_hour=USD_PER_GPU_HOUR),
        max_num_seqs=SEQUENCES,
    )
    remote = RemoteConfig(
        name=REMOTE,
        remote_class="demo",
        model=MODEL,
        url=urls[REMOTE],
        api_key=SecretConfig(env=REMOTE_KEY),
        max_concurrency=REMOTE_SEQUENCES,
        price_row=f"{PROVIDER}/{MODEL}",
    )
    return GatewayConfig(
        server=server,
        pools=(pool,),
        remotes=(remote,),
        tenants=tenants,
        # The replicas are slow: they would miss the default limits.
        slo_classes=SloClassesConfig(
            interactive=SloFiguresConfig(ttft_s=4.0, tpot_s=0.2, max_queue_s=8.0),
            standard=SloFiguresConfig(ttft_s=10.0, tpot_s=0.3, max_queue_s=15.0),
            batch=SloFiguresConfig(ttft_s=30.0, tpot_s=1.0, max_queue_s=30.0),
        ),
        limits=LimitsConfig(queue_requests=QUEUE_REQUESTS),
        prices=PricesConfig(catalog=CATALOG),
        # A soft budget: a hard one would refuse the load of the demo.
        budgets=(
            BudgetConfig(tenant="tenant-0", period=Period.HOUR, cap_usd=BUDGET_USD, hard=False),
        ),
        telemetry=TelemetryConfig(metrics_listen=metrics_listen),
    )


async def _until_serving(address: str, key: str, gateway: Process) -> None:
    """Waits for gRPC health SERVING, which needs one placement, and then for every replica."""
    metadata = (("authorization", f"Bearer {key}"),)
    async with channel(address) as probe:
        health = health_pb2_grpc.HealthStub(probe)
        stub = inference_pb2_grpc.InferenceServiceStub(probe)
        for _ in range(round(READY_S / POLL_S)):
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=READY_S)
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                listed = await stub.ListModels(
                    inference_pb2.ListModelsRequest(), metadata=metadata, timeout=READY_S
                )
                if listed.models[0].local_replicas_serving == REPLICAS:
                    return
            await asyncio.sleep(POLL_S)
    raise ProcessFailed(f"the gateway does not serve after {READY_S:g} s:\n{gateway.tail()}")
