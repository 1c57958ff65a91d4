"""The TLS files of the listening ports, which may be renewed while they serve."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from gateway.config.problems import ConfigError
from gateway.config.resolve.tls_files import server_files
from gateway.config.server import TlsConfig

log = logging.getLogger(__name__)

RENEW_S = 30.0
"""Seconds between two checks of the TLS files for changes."""


@dataclass(frozen=True, slots=True)
class PemFiles:
    """Contents of the TLS files. `client_ca`: None: clients show no certificate."""

    key: bytes
    cert: bytes
    client_ca: bytes | None


class Certificates:
    """The TLS files in force. They are read at the start, on reload and after a change on disk."""

    def __init__(self, tls: TlsConfig, base_dir: Path) -> None:
        """Reads the files. Raises ConfigError."""
        self.needs_client = tls.client_ca is not None
        self.reload(tls, base_dir)

    def reload(self, tls: TlsConfig, base_dir: Path) -> None:
        """Reads the files again. Raises ConfigError and keeps the old files in force."""
        stamp = server_files(tls).stamp(base_dir)
        server_files(tls).check(base_dir)
        context = _context(tls, base_dir)
        client_ca = None if tls.client_ca is None else (base_dir / tls.client_ca).read_bytes()
        self.pem = PemFiles(
            (base_dir / tls.key).read_bytes(), (base_dir / tls.cert).read_bytes(), client_ca
        )
        self.context = context
        self._files, self._stamp = (tls, base_dir), stamp

    def renew(self) -> bool:
        """Reads the files again if one has changed, and returns whether one has. Raises ConfigError
        once per unusable change and keeps the old files in force."""
        tls, base_dir = self._files
        stamp = server_files(tls).stamp(base_dir)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self.reload(tls, base_dir)
        return True

    def following_context(self) -> ssl.SSLContext:
        """Returns a context for a server whose handshakes use the files that are in force then."""
        tls, base_dir = self._files
        following = _context(tls, base_dir)

        def choose(handshake: ssl.SSLObject | ssl.SSLSocket, *_: object) -> None:
            handshake.context = self.context

        following.sni_callback = choose  # called for clients that name no server, too
        return following


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


def _context(tls: TlsConfig, base_dir: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"] if tls.http2 else ["http/1.1"])
    context.load_cert_chain(base_dir / tls.cert, base_dir / tls.key)
    if tls.client_ca is not None:
        context.load_verify_locations(base_dir / tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
