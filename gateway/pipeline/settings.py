"""The pipeline's part of the configuration. Frozen: a reload replaces the whole object."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.gateway import GatewayConfig, PoolConfig, RemoteConfig, SloClassesConfig
from gateway.config.remote import FailuresConfig
from gateway.config.tasks import Task
from gateway.domain.image_policy import ImageRules


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """Settings of the pipeline. `remote_classes`: all configured classes. `isolated_models`: models
    whose prefix cache is separate for each tenant. `tasks`: what the servers of each model do."""

    slo_classes: SloClassesConfig
    default_deadline_s: float
    max_deadline_s: float
    default_max_output_tokens: int
    max_output_tokens: int
    failures: FailuresConfig
    remote_classes: frozenset[str]
    isolated_models: frozenset[str]
    tasks: Mapping[str, frozenset[Task]]
    images: ImageRules


def pipeline_settings(config: GatewayConfig) -> PipelineSettings:
    """Derives the settings from a validated configuration."""
    return PipelineSettings(
        slo_classes=config.slo_classes,
        default_deadline_s=config.limits.default_deadline_s,
        max_deadline_s=config.limits.max_deadline_s,
        default_max_output_tokens=config.limits.default_max_output_tokens,
        max_output_tokens=config.limits.max_output_tokens,
        failures=config.failures,
        remote_classes=frozenset(remote.remote_class for remote in config.remotes),
        isolated_models=frozenset(p.model for p in config.pools if not p.share_prefix_cache),
        tasks=_tasks(config),
        images=ImageRules(
            url_hosts=frozenset(config.limits.image_url_hosts),
            max_bytes=config.limits.image_bytes,
            most=config.limits.images,
        ),
    )


def _tasks(config: GatewayConfig) -> Mapping[str, frozenset[Task]]:
    """What the servers of each model do."""
    found: dict[str, frozenset[Task]] = defaultdict(frozenset)
    upstreams: tuple[PoolConfig | RemoteConfig, ...] = (*config.pools, *config.remotes)
    for upstream in upstreams:
        found[upstream.model] |= upstream.tasks
    return dict(found)
