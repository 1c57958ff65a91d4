"""The plan of `moegate up`, and the configuration of the gateway that follows from it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from gateway.config.engines import KvEventsConfig
from gateway.config.gateway import (
    GatewayConfig,
    GpuConfig,
    KeyConfig,
    MoeShapeConfig,
    PoolConfig,
    ReplicaConfig,
    SecretConfig,
    TenantConfig,
)
from gateway.config.prior import PriorConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.resolve.step_model_prior import read_model_dir
from gateway.config.server import ServerConfig
from moegate.up.launch import KEY_VARIABLE, KV_EVENTS_TOPIC, Launch
from moegate.up.machine import HOST
from simulation.catalog.hf_fields import UnreadableConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpPlan:
    """Everything that `moegate up` needs to start vLLM and the gateway.

    Attributes:
        builds_model: the tiny model is built before vLLM starts.
        moe: experts of the model; None: unknown.
        start_limit_s: longest time from the start of vLLM until it is in service.
    """

    vllm: Path
    launch: Launch
    listen: str
    gpu: GpuConfig
    builds_model: bool = False
    moe: MoeShapeConfig | None = None
    start_limit_s: float = 1800.0


def _prior(up: UpPlan) -> PriorConfig:
    """The prior of a model in a folder comes from its config.json, any other from the catalog."""
    folder = Path(up.launch.model).absolute()
    if up.builds_model or not (folder / "config.json").is_file():
        return PriorConfig()
    try:
        read_model_dir(folder)
    except UnreadableConfig as error:
        # vLLM may serve the model anyway; the fit then starts from a default model.
        log.warning("%s", error)
        return PriorConfig()
    return PriorConfig(config_json=str(folder))


def gateway_config(up: UpPlan, port: int, key: str) -> GatewayConfig:
    """The configuration of the gateway.

    `port`: port of vLLM, whose KV events are on the ports that follow; `key`: the callers' key. The
    key of vLLM is in `KEY_VARIABLE`.
    """
    launch = up.launch
    pool = PoolConfig(
        name="own",
        model=launch.served_model_name,
        replicas=(ReplicaConfig(name="vllm", url=f"http://{HOST}:{port}"),),
        gpu=up.gpu,
        data_parallel_ranks=launch.data_parallel_size,
        max_num_seqs=launch.max_num_seqs,
        kv_events=KvEventsConfig(
            port=port + 1, replay_port=port + 1 + launch.data_parallel_size, topic=KV_EVENTS_TOPIC
        ),
        moe=up.moe,
        prior=_prior(up),
        api_key=SecretConfig(env=KEY_VARIABLE),
        engine_feed=launch.engine_feed,
    )
    tenant = TenantConfig(name="local", keys=(KeyConfig(id="up", sha256=key_sha256(key)),))
    return GatewayConfig(
        server=ServerConfig(listen=up.listen, drain_delay_s=0.0), pools=(pool,), tenants=(tenant,)
    )
