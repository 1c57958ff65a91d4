"""Listening socket of the gRPC server: channel options, TLS certificates and port."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc

from gateway.config.gateway import GatewayConfig
from gateway.config.problems import ConfigError
from gateway.config.resolve.tls_files import check_server_tls
from gateway.config.server import TlsConfig
from gateway.doors.grpc.listening.open_files import connections_that_fit

log = logging.getLogger(__name__)

RENEW_S = 30.0
"""Seconds between two checks of the TLS files for changes."""
MAX_METADATA_BYTES = 65_536
"""Bound of grpc core on metadata. Above `limits.metadata_bytes`, so that the gateway itself
refuses: core answers RESOURCE_EXHAUSTED, which clients send again."""
MAX_PENDING_RPCS = 1_000_000
MAX_PENDING_S = 3600
"""Bounds of the queue in grpc core, which cancels without a trace. They are out of reach:
`RpcsInProgress` refuses instead."""


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


class Certificates:
    """The TLS files in force. They are read at the start, on reload and after a change on disk.
    gRPC fetches them for every handshake."""

    def __init__(self, tls: TlsConfig, base_dir: Path) -> None:
        """Reads the files. Raises ConfigError."""
        self._needs_client = tls.client_ca is not None
        self.reload(tls, base_dir)

    def reload(self, tls: TlsConfig, base_dir: Path) -> None:
        """Reads the files again. Raises ConfigError and keeps the old files in force."""
        stamp = _stamp(tls, base_dir)
        self._configuration = self._read(tls, base_dir)
        self._files, self._stamp = (tls, base_dir), stamp

    def renew(self) -> bool:
        """Reads the files again if one has changed, and returns whether one has. Raises ConfigError
        once per unusable change and keeps the old files in force."""
        stamp = _stamp(*self._files)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self.reload(*self._files)
        return True

    def credentials(self) -> grpc.ServerCredentials:
        """Returns server credentials that follow later calls of `reload`."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, lambda: self._configuration, self._needs_client
        )

    @staticmethod
    def _read(tls: TlsConfig, base_dir: Path) -> grpc.ServerCertificateConfiguration:
        check_server_tls(tls, base_dir)
        client_ca = None if tls.client_ca is None else (base_dir / tls.client_ca).read_bytes()
        pair = ((base_dir / tls.key).read_bytes(), (base_dir / tls.cert).read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], client_ca)


async def follow(certificates: Certificates | None, interval_s: float = RENEW_S) -> None:
    """Loads renewed TLS files every `interval_s` seconds, until cancelled. Polling is needed
    because a renewer such as cert-manager sends no signal."""
    while certificates is not None:
        await asyncio.sleep(interval_s)
        try:
            if await asyncio.to_thread(certificates.renew):
                log.info("the TLS files have changed: the new ones are in force")
        except (ConfigError, OSError) as error:
            log.error("the TLS files have changed, the old ones stay in force: %s", error)


def _stamp(tls: TlsConfig, base_dir: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """Returns inode, modification time and size of each file; None for an absent file."""
    stamp: list[tuple[int, int, int] | None] = []
    for file in (tls.cert, tls.key, tls.client_ca):
        try:
            found = None if file is None else (base_dir / file).stat()
        except OSError:
            found = None  # reading the file will raise the error
        stamp.append(found and (found.st_ino, found.st_mtime_ns, found.st_size))
    return tuple(stamp)


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
            port = server.add_secure_port(listen, certificates.credentials())
    except RuntimeError as error:
        raise OSError(f"{field}: cannot listen on {listen}: {error}") from None
    return f"{listen.rpartition(':')[0]}:{port}"
