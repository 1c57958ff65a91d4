"""What of the configuration the pipeline needs. Frozen: a reload replaces it whole."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config.gateway import GatewayConfig, SloClassesConfig
from gateway.config.remote import FailuresConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """`remote_classes`: all that are configured; `isolated_models`: models of which each tenant has
    a prefix cache of its own."""

    slo_classes: SloClassesConfig
    default_deadline_s: float
    default_max_output_tokens: int
    failures: FailuresConfig
    remote_classes: frozenset[str]
    isolated_models: frozenset[str]


def pipeline_settings(config: GatewayConfig) -> PipelineSettings:
    """From a checked configuration."""
    return PipelineSettings(
        slo_classes=config.slo_classes,
        default_deadline_s=config.limits.default_deadline_s,
        default_max_output_tokens=config.limits.default_max_output_tokens,
        failures=config.failures,
        remote_classes=frozenset(remote.remote_class for remote in config.remotes),
        isolated_models=frozenset(p.model for p in config.pools if not p.share_prefix_cache),
    )
