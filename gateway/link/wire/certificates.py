"""TLS between the gateways of a cluster: each shows a certificate of the cluster's authority, which
carries the name of its members. The files may be renewed while connections stand."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

from gateway.config.problems import ConfigError
from gateway.config.resolve.tls_files import Stamp, cluster_files
from gateway.config.server import ClusterTlsConfig

log = logging.getLogger(__name__)


class LinkCertificates:
    """The TLS files of a cluster. Each new connection uses those that are in force then."""

    def __init__(self, tls: ClusterTlsConfig, base_dir: Path) -> None:
        """Reads the files. Raises ConfigError."""
        self._tls = tls
        self._base_dir = base_dir
        self._files = cluster_files(tls)
        self._stamp: Stamp = self._files.stamp(base_dir)
        self._files.check(base_dir)
        self._contexts = self._read()

    @property
    def member(self) -> str:
        """DNS name that every certificate of the cluster carries."""
        return self._tls.member

    def server(self) -> ssl.SSLContext:
        """Returns the context of the side that listens."""
        self._renew()
        return self._contexts[0]

    def client(self) -> ssl.SSLContext:
        """Returns the context of the side that connects. It checks the name of the other side."""
        self._renew()
        return self._contexts[1]

    def why_no_member(self, certificate: dict[str, Any] | None) -> str:
        """Returns why the certificate of the other side does not let in; empty: it does. The
        authority has been checked."""
        names = [value for kind, value in (certificate or {}).get("subjectAltName", ())]
        if self.member in names:
            return ""
        shown = ", ".join(map(str, names))[:200] or "none"
        return f"its certificate is not for {self.member} (cluster.tls.member), its names: {shown}"

    def _renew(self) -> None:
        """Reads the files again if one has changed. Unusable files leave the old ones in force."""
        stamp = self._files.stamp(self._base_dir)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._files.check(self._base_dir)
            self._contexts = self._read()
        except (ConfigError, OSError) as error:
            log.error("the TLS files of the cluster cannot be used, the old ones hold: %s", error)
        else:
            log.info("the TLS files of the cluster have changed: the new ones are in force")

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return self._context(ssl.PROTOCOL_TLS_SERVER), self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, side: int) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._base_dir / self._tls.cert, self._base_dir / self._tls.key)
        context.load_verify_locations(self._base_dir / self._tls.ca)
        return context
