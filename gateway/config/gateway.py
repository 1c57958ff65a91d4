"""The configuration file: its shape, with units and defaults. Loaded by `load/file.py`.

The structs are frozen, refuse unknown fields, and do not depend on how the gateway uses them. The
docstring of a field is its documentation in the JSON schema.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.batch import BatchConfig
from gateway.config.discovery import DiscoveryConfig
from gateway.config.engines import (
    AdaptersConfig,
    DisaggregatedNodesConfig,
    EnginesConfig,
    KvEventsConfig,
    Port,
)
from gateway.config.ledger import BudgetConfig, LedgerConfig
from gateway.config.limits import KeyLimitsConfig, LimitsConfig
from gateway.config.prices import MeteringConfig, PricesConfig
from gateway.config.prior import PriorConfig
from gateway.config.remote import (
    FailuresConfig,
    Feature,
    HeaderName,
    HistoryConfig,
    JsonText,
    Lack,
    MaxTokensField,
    OtherGatewayConfig,
    PriceRow,
    ReasoningRequest,
    RemoteApi,
    RemoteLimitsConfig,
    SessionHintConfig,
)
from gateway.config.server import ClusterConfig, ConsoleConfig, ServerConfig
from gateway.config.tasks import Task, tasks_with
from gateway.config.telemetry import TelemetryConfig
from gateway.config.values import Count, Seconds, Url
from gateway.config.values import KeyRole as KeyRole
from gateway.config.values import ModelName as ModelName
from gateway.config.values import Name as Name
from gateway.config.values import SecretConfig as SecretConfig
from scheduler.contract import Objective, SloClass

RemoteUrl = Annotated[
    str,
    Meta(
        pattern=r"^((https?|grpcs?)://)[^\s/?#@]+(/[^\s?#]*)?$",
        description="http://, https://, grpc:// or grpcs:// address without user, query, fragment.",
    ),
]
UsdPerHour = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,9})?$",
        description='US dollars as a quoted decimal number, such as "2.10".',
    ),
]
Sha256 = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key as 64 lower-case hex digits."),
]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class GpuConfig(_Part, frozen=True, kw_only=True):
    """GPUs of one replica, and what they cost."""

    type: Annotated[str, Meta(min_length=1)]
    """Type of the GPUs, such as H100-80GB."""
    count: Count
    """GPUs of one replica."""
    usd_per_gpu_hour: UsdPerHour | None = None
    """Price of one GPU for an hour; absent: unknown, and so is every cost."""


class TimeoutsConfig(_Part, frozen=True, kw_only=True):
    """Limits on the parts of one upstream call, seconds."""

    connect_s: Seconds = 3.0
    """Until there is a TCP (and TLS) connection."""
    first_token_s: Seconds = 120.0
    """From the request to the first token."""
    idle_s: Seconds = 30.0
    """Between two pieces of a stream."""
    pings_first_s: Seconds = 600.0
    """From the request to the first token while the server shows that it lives, by pings, comments
    or empty pieces at most `idle_s` apart, as it does while a model reasons hidden. Has no effect
    if shorter than `first_token_s`."""
    pings_idle_s: Seconds | None = None
    """Between two pieces of output while the server shows that it lives; absent: four times
    `idle_s`. Has no effect if shorter than `idle_s`."""
    total_s: Seconds = 3600.0
    """The whole call."""


class MoeShapeConfig(_Part, frozen=True, kw_only=True):
    """Experts of the model, on which the growth of step times with the batch depends."""

    experts: Annotated[int, Meta(ge=2, le=4096)]
    """Routed experts per MoE layer."""
    experts_per_token: Annotated[int, Meta(ge=1, le=256)]
    """Experts that each token is routed to."""


class ReplicaConfig(_Part, frozen=True, kw_only=True):
    """One vLLM server."""

    name: Name
    """Name, unique in its pool."""
    url: Url
    """Address of its OpenAI API, without /v1."""
    kv_events_port: Port | None = None
    """Port that its first rank publishes KV events on; absent: that of the pool. Its replay port is
    as far from it as the pool's."""
    grpc_port: Port | None = None
    """Port of its vLLM's own gRPC services (--grpc-port); absent: that of the pool."""
    engines: EnginesConfig | None = None
    """Engines behind `url`, where that is the proxy of a disaggregated replica; absent: `url` tells
    the metrics itself. Needs `disaggregated` in the pool."""


class PoolConfig(_Part, frozen=True, kw_only=True):
    """Self-hosted vLLM replicas of one model, all alike."""

    name: Name
    """Name, unique among pools and remotes."""
    model: ModelName
    """Name that clients use."""
    upstream_model: ModelName | None = None
    """Name that vLLM serves it under (--served-model-name); absent: `model`."""
    adapters: AdaptersConfig | None = None
    """LoRA adapters that the servers have beside the model; absent: clients can name none."""
    task: Task = Task.GENERATE
    """What the replicas do: generate, embed or score. The last two are vLLM's pooling runner."""
    replicas: tuple[ReplicaConfig, ...] = ()
    """The servers; empty: those that `discover` finds."""
    discover: DiscoveryConfig | None = None
    """Finds the servers in DNS; absent: `replicas` lists them."""
    gpu: GpuConfig
    """GPUs of one replica."""
    data_parallel_ranks: Count = 1
    """Data-parallel ranks of one replica (--data-parallel-size)."""
    pin_ranks: bool = False
    """Whether the gateway chooses the rank of each request (X-data-parallel-rank), so that each
    rank is a placement. Otherwise the engine chooses, and a replica is one placement."""
    max_num_seqs: Count | None = None
    """Sequences that one rank runs at once (--max-num-seqs); absent: read from the engine where
    `grpc_port` is given, else 256 is assumed, which is vLLM's default on most GPUs."""
    kv_capacity_tokens: Count | None = None
    """KV cache of one replica, tokens; absent: read from the engine."""
    context_tokens: Count | None = None
    """Most tokens of prompt and output (--max-model-len); absent: read from the engine."""
    moe: MoeShapeConfig | None = None
    """Experts of the model; absent: those of `prior`."""
    prior: PriorConfig = PriorConfig()
    """Facts of the model; absent: those of the catalog, found by the model's name."""
    api_key: SecretConfig | None = None
    """Key of the replicas (--api-key)."""
    disaggregated: DisaggregatedNodesConfig | None = None
    """How a replica is split into prefill and decode nodes; absent: it is not."""
    kv_events: KvEventsConfig | None = None
    """The KV events in which the replicas publish what their prefix caches hold; absent: the
    gateway does not listen to them."""
    grpc_port: Port | None = None
    """Port of vLLM's own gRPC services (--grpc-port of its front end in Rust), at the host of a
    replica's URL: the gateway asks there for what the metrics do not tell. Absent: it does not
    ask."""
    engine_feed: bool = True
    """Whether the gateway reads the single steps and finished requests of replicas that have the
    plugin moegate-vllm; it needs `api_key`."""
    share_prefix_cache: bool = False
    """Whether tenants share the prefix cache; otherwise a cache salt isolates them."""
    objective: Objective = Objective.LATENCY
    """Objective of the choice among placements that meet all SLOs: `latency` spreads requests for
    the fastest tokens, `cost` packs them so that idle replicas can be released. The same for
    all pools of a model."""
    release_delay_s: Seconds = 30.0
    """How long a replica must have been empty to be reported as releasable (objective `cost`)."""
    extra_body_json: JsonText | None = None
    """Further fields of every generation's body, such as
    '{"chat_template_kwargs": {"enable_thinking": false}}'. A request that sets a field replaces
    it."""
    timeouts: TimeoutsConfig = TimeoutsConfig()
    """Limits on calls."""

    @property
    def tasks(self) -> frozenset[Task]:
        """Requests that the replicas take."""
        return tasks_with(self.task, by_vectors=True)


class HeaderConfig(_Part, frozen=True, kw_only=True):
    """An HTTP header of every request to a remote: exactly one of `value` and `secret`."""

    name: HeaderName
    """Name of the header, such as HTTP-Referer."""
    value: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    """The value, if it is not secret."""
    secret: SecretConfig | None = None
    """The value by reference."""


class RemoteConfig(_Part, frozen=True, kw_only=True):
    """A remote API that serves a model when the self-hosted servers are saturated."""

    name: Name
    """Name, unique among pools and remotes."""
    remote_class: Name
    """Class that data policies name, such as eu-zero-retention."""
    model: ModelName
    """Name that clients use."""
    upstream_model: ModelName | None = None
    """Name that the remote uses; absent: `model`."""
    task: Task = Task.GENERATE
    """What it does: generate, embed (OpenAI-shaped /embeddings) or score (/rerank)."""
    api: RemoteApi = RemoteApi.OPENAI
    """API of the remote."""
    url: RemoteUrl
    """Address of its API, without `url_prefix`. Of another moegate: grpc://host:port, or grpcs://
    over TLS."""
    url_prefix: Annotated[
        str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="Path such as /v1.")
    ] = "/v1"
    """Path between the address and the paths of the API."""
    api_key: SecretConfig | None = None
    """Key of the remote."""
    headers: tuple[HeaderConfig, ...] = ()
    """Further HTTP headers of every request."""
    extra_body_json: JsonText | None = None
    """Further fields of every request's body, such as '{"provider": {"zdr": true}}'."""
    batch_body_json: JsonText | None = None
    """Further fields of the bodies of batch work, such as '{"service_tier": "flex"}', for which the
    remote takes `batch_usd_per_mtok` of its price row (OpenAI-shaped APIs only)."""
    can: tuple[Feature, ...] = ()
    """Features that it has beyond the usual ones of its API."""
    cannot: tuple[Lack, ...] = ()
    """Features that it lacks, alone or together (temperature+top_p): requests that need them do not
    go there."""
    drop: tuple[Feature, ...] = ()
    """Sampling parameters that are left out of a request which otherwise could not go there. Only
    what is listed here is ever left out."""
    history: HistoryConfig | None = None
    """What it wants in earlier turns of the model; absent: what is known of its host
    (docs/overflow.md)."""
    reasoning_request: ReasoningRequest | None = None
    """Fields in which it is told how to reason (OpenAI-shaped APIs only); absent: what is known of
    its host, else `reasoning_effort`."""
    session_hint: SessionHintConfig | None = None
    """How it is told which requests belong to one session; absent: it is not told."""
    max_concurrency: Count = 32
    """Most requests at once."""
    limits: RemoteLimitsConfig = RemoteLimitsConfig()
    """Limits of the provider on what the gateway sends."""
    context_tokens: Count | None = None
    """Most tokens of prompt and output; absent: unknown."""
    max_output_tokens: Count | None = None
    """Most output tokens of one request; absent: unknown."""
    max_tokens_field: MaxTokensField = MaxTokensField.MAX_TOKENS
    """Name of the output limit (OpenAI-shaped APIs only)."""
    gateway: OtherGatewayConfig = OtherGatewayConfig()
    """How another moegate is called (api `moegate` only)."""
    fails_with: Name | None = None
    """Name of its failure domain: after a failure the next attempt prefers remotes of other
    domains."""
    price_row: PriceRow | None = None
    """Its rows in the price catalog; absent: its price is unknown."""
    timeouts: TimeoutsConfig = TimeoutsConfig()
    """Limits on calls."""

    @property
    def tasks(self) -> frozenset[Task]:
        """Requests that it takes."""
        return tasks_with(self.task, by_vectors=self.api is RemoteApi.MOEGATE)


class KeyConfig(_Part, frozen=True, kw_only=True):
    """An API key: exactly one of `sha256` and `api_key`."""

    id: Name
    """Name for logs and accounts, unique."""
    sha256: Sha256 | None = None
    """SHA-256 of the key: `moegate key` makes both."""
    api_key: SecretConfig | None = None
    """The key itself, by reference, where another system makes and renews it."""
    role: KeyRole = KeyRole.CALLER
    """Role of its holder."""
    models: tuple[ModelName, ...] = ()
    """Models it may use; empty: all."""
    slo_classes: tuple[SloClass, ...] = ()
    """Classes it may use; empty: all. The first is its default; empty: interactive."""
    remote_classes: tuple[Name, ...] | None = None
    """Classes of remotes that may see its content; absent: all, empty: none."""
    min_ttft_s: Seconds | None = None
    """Shortest time to the first token that its requests may ask for; absent: the figure of the
    class. A shorter one lets other requests wait."""
    min_tpot_s: Seconds | None = None
    """Shortest time per output token that its requests may ask for; absent: the figure of the
    class. A shorter one keeps other requests off the server."""
    max_priority: Annotated[int, Meta(ge=0, le=10)] = 0
    """Highest priority that its requests may ask for. Below 0 every key may go."""
    limits: KeyLimitsConfig = KeyLimitsConfig()
    """Limits."""


class TenantConfig(_Part, frozen=True, kw_only=True):
    """A team or customer."""

    name: Name
    """Name, unique."""
    weight: Annotated[float, Meta(gt=0, le=1_000)] = 1.0
    """Its share of a saturated model, relative to the other tenants whose requests wait."""
    rpcs: Count | None = None
    """Most RPCs of it in progress, in all front processes together; absent:
    `limits.tenant_rpcs`."""
    keys: tuple[KeyConfig, ...] = ()
    """Its keys."""


class SloFiguresConfig(_Part, frozen=True, kw_only=True):
    """Figures of a class of service."""

    ttft_s: Seconds
    """Target of the time to the first token."""
    tpot_s: Seconds
    """Target of the mean time per output token."""
    max_queue_s: Seconds
    """Longest time in the queue of the gateway."""


class SloClassesConfig(_Part, frozen=True, kw_only=True):
    """The classes of service."""

    interactive: SloFiguresConfig = SloFiguresConfig(ttft_s=2.0, tpot_s=0.05, max_queue_s=10.0)
    """A person waits for the answer."""
    standard: SloFiguresConfig = SloFiguresConfig(ttft_s=5.0, tpot_s=0.1, max_queue_s=30.0)
    """An agent or a program waits for the answer."""
    batch: SloFiguresConfig = SloFiguresConfig(ttft_s=60.0, tpot_s=1.0, max_queue_s=600.0)
    """Batch work: no caller waits for the answer."""


class GatewayConfig(_Part, frozen=True, kw_only=True):
    """The whole file."""

    server: ServerConfig = ServerConfig()
    """Where and how the gateway listens."""
    pools: tuple[PoolConfig, ...] = ()
    """Self-hosted servers."""
    remotes: tuple[RemoteConfig, ...] = ()
    """Remote APIs."""
    tenants: tuple[TenantConfig, ...] = ()
    """Teams and customers, with their keys; empty: nobody may call."""
    slo_classes: SloClassesConfig = SloClassesConfig()
    """Classes of service."""
    limits: LimitsConfig = LimitsConfig()
    """Bounds."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """Metrics and logs."""
    prices: PricesConfig = PricesConfig()
    """Sources of prices."""
    metering: MeteringConfig = MeteringConfig()
    """The meter of the cost of self-hosted servers."""
    failures: FailuresConfig = FailuresConfig()
    """Retries, continuations and hedging when an upstream fails."""
    ledger: LedgerConfig = LedgerConfig()
    """Where every attempt is recorded."""
    budgets: tuple[BudgetConfig, ...] = ()
    """Caps on spend."""
    batch: BatchConfig = BatchConfig()
    """Offline jobs."""
    console: ConsoleConfig = ConsoleConfig()
    """Signing in to the console."""
    cluster: ClusterConfig | None = None
    """Other gateways that share this one's scheduler; absent: it stands alone."""
