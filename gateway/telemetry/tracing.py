"""The tracer provider: the OpenTelemetry SDK, configured by the standard OTEL_* variables.

A thread of the SDK exports spans in batches over OTLP gRPC. Traces are off without an endpoint, so
that a gateway does not call localhost in vain. The SDK itself reads the variables for the sampler,
limits, batches, headers, TLS and timeouts.
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
    """Makes the provider; None: traces are off.

    `environ` decides only whether there is a provider; the SDK reads the environment of the
    process.
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
    # Imported only if traces are on: the import takes a tenth of a second.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # The gateway shuts the provider down itself, after its last stream has ended.
    provider = TracerProvider(resource=_resource(environ), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _resource(environ: Mapping[str, str]) -> Resource:
    """The resource from the environment, with name and version of moegate as defaults."""
    own = Resource({"service.name": "moegate", "service.version": version("moegate")})
    named = Resource.create()
    # The SDK names an unnamed service unknown_service; only then moegate's name is used.
    nameless = str(named.attributes.get("service.name", "")).startswith("unknown_service")
    return named.merge(own) if nameless else own.merge(named)
