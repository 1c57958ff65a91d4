"""The tracer: the OpenTelemetry SDK under the standard OTEL_* variables, and nothing of our own.

Spans go out over OTLP gRPC from a thread of the SDK, in batches, and only where an endpoint is
named: a gateway without one must not knock at localhost for ever. The SDK itself reads the sampler,
the limits, the batch processor's figures, headers, TLS and timeouts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def tracer_provider(environ: Mapping[str, str] = os.environ) -> TracerProvider | None:
    """The provider that the environment asks for; None: no traces.

    `environ`: only what decides whether there is one; the SDK reads the process's own.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporter = environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    if exporter not in ("otlp", ""):
        if exporter != "none":
            log.warning(
                "OTEL_TRACES_EXPORTER=%s: only otlp and none are there, no traces", exporter
            )
        return None
    if not any(environ.get(name) for name in _ENDPOINTS):
        return None
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "grpc")
    if protocol != "grpc":
        log.warning("OTEL_EXPORTER_OTLP_PROTOCOL=%s: only grpc is there, no traces", protocol)
        return None
    # Imported only where spans leave: the exporter is a tenth of a second of a start.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # The gateway ends the provider itself, when its last stream has ended.
    provider = TracerProvider(resource=_resource(environ), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _resource(environ: Mapping[str, str]) -> Resource:
    """What the environment says of this process; its name and version where it says nothing."""
    own = Resource({"service.name": "moegate", "service.version": version("moegate")})
    named = Resource.create()
    # The SDK calls a nameless service unknown_service: ours wins over that alone.
    nameless = str(named.attributes.get("service.name", "")).startswith("unknown_service")
    return named.merge(own) if nameless else own.merge(named)
