"""Listening socket of the gRPC server: channel options, TLS and port."""

from __future__ import annotations

import time

import grpc

from gateway.config.gateway import GatewayConfig
from gateway.doors.entry.certificates import Certificates, PemFiles
from gateway.doors.entry.open_files import connections_that_fit

MAX_METADATA_BYTES = 65_536
"""Bound of grpc core on metadata. Above `limits.metadata_bytes`, so that the gateway itself
refuses: core answers RESOURCE_EXHAUSTED, which clients send again."""
MAX_PENDING_RPCS = 1_000_000
MAX_PENDING_S = 3600
"""Bounds of the queue in grpc core, which cancels without a trace. They are out of reach:
`CallsInProgress` refuses instead."""
SETTLE_S = 0.25
"""Seconds between a handshake that meets renewed TLS files and their use. One that has begun with
the old ones needs microseconds of CPU until it holds a reference to them."""


def server_options(
    config: GatewayConfig, max_connections: int | None = None, *, shares_port: bool = False
) -> tuple[tuple[str, int], ...]:
    """Channel arguments of a server. gRPC silently ignores an unknown argument name.
    `max_connections`: None means the configured bound. `shares_port`: other processes of the same
    gateway listen on the same port."""
    server = config.server
    if max_connections is None:
        max_connections = connections_that_fit(server.max_connections)
    return (
        # Messages stay compressed until the key is known: `parse_message` inflates them.
        ("grpc.per_message_decompression", 0),
        ("grpc.max_receive_message_length", config.limits.message_bytes),
        ("grpc.max_send_message_length", -1),
        # With so_reuseport, two gateways on one port would silently share its connections.
        ("grpc.so_reuseport", int(shares_port)),
        ("grpc.keepalive_time_ms", _ms(server.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _ms(server.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(server.client_ping_interval_s)),
        ("grpc.http2.max_ping_strikes", server.client_ping_strikes),
        ("grpc.max_concurrent_streams", server.max_streams_per_connection),
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.server_handshake_timeout_ms", _ms(server.handshake_timeout_s)),
        # Equal limits, as core refuses some of the requests between the two at random.
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.server.max_pending_requests", MAX_PENDING_RPCS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_RPCS),
        ("grpc.server_max_unrequested_time_in_server", MAX_PENDING_S),
        ("grpc.max_connection_idle_ms", _ms(server.max_connection_idle_s)),
        # Clients reconnect through the load balancer, so new pods receive their share. Running
        # streams keep their connection until they end.
        ("grpc.max_connection_age_ms", _ms(server.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(server.max_connection_age_grace_s)),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Returns server credentials that follow the files in force.

    grpc core asks for them at every handshake, under a lock that it leaves before it uses them: new
    ones free the TLS context that handshakes of other threads may be about to use, which ends the
    process. So it receives new ones only if a file has changed, and after `SETTLE_S` seconds in
    which the lock keeps further handshakes out.
    """
    given = certificates.pem

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        if certificates.pem == given:
            return None
        time.sleep(SETTLE_S)  # in a thread of grpc core
        given = certificates.pem
        return _configuration(given)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        renewed,  # type: ignore[arg-type]  # its types lack None: nothing has changed
        certificates.needs_client,
    )


def _configuration(pem: PemFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca)


def bind(
    server: grpc.aio.Server,
    listen: str,
    certificates: Certificates | None,
    *,
    field: str = "server.listen",
) -> str:
    """Binds the server and returns the bound address. Raises OSError that names the field."""
    try:
        if certificates is None:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, _credentials(certificates))
    except RuntimeError as error:
        raise OSError(f"{field}: cannot listen on {listen}: {error}") from None
    return f"{listen.rpartition(':')[0]}:{port}"
