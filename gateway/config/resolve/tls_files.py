"""Checks the TLS files that the configuration names: readable, PEM, certificate and key a pair."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from gateway.config.problems import ConfigError, Problem
from gateway.config.server import ClusterTlsConfig, TlsConfig

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """TLS files of one part of the configuration. `path`: of that part; `authority_field`: its
    field that names the authority."""

    path: str
    cert: str
    key: str
    authority: str | None
    authority_field: str

    def check(self, base_dir: Path) -> None:
        """Raises ConfigError that names the file which cannot be used. Libraries would report it
        without a reason."""
        files = {"cert": self.cert, "key": self.key, self.authority_field: self.authority}
        for field, file in files.items():
            try:
                if file is not None:
                    (base_dir / file).read_bytes()
            except OSError as error:
                raise self._unusable(field, file, error.strerror or "cannot be read") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        def no_password() -> str:
            raise self._unusable("key", self.key, "is encrypted")

        try:
            context.load_cert_chain(base_dir / self.cert, base_dir / self.key, no_password)
        except ssl.SSLError as error:
            reason = (error.reason or "not PEM").replace("_", " ").lower()
            text = f"does not go with the key: {reason}"
            raise self._unusable("cert", self.cert, text) from None
        if self.authority is not None:
            try:
                context.load_verify_locations(base_dir / self.authority)
            except ssl.SSLError:
                text = "holds no PEM certificate"
                raise self._unusable(self.authority_field, self.authority, text) from None

    def stamp(self, base_dir: Path) -> Stamp:
        """Returns inode, modification time and size of each file; None for an absent file."""
        stamp: list[tuple[int, int, int] | None] = []
        for file in (self.cert, self.key, self.authority):
            try:
                found = None if file is None else (base_dir / file).stat()
            except OSError:
                found = None  # reading the file will raise the error
            stamp.append(found and (found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(stamp)

    def _unusable(self, field: str, file: str | None, message: str) -> ConfigError:
        problem = Problem(
            path=f"{self.path}.{field}",
            value=file or "",
            message=message,
            fix="give PEM files: the certificate chain, its unencrypted key, the other side's"
            " authority",
        )
        return ConfigError(self.path, [problem])


def server_files(tls: TlsConfig) -> TlsFiles:
    """The files of `server.tls`."""
    return TlsFiles(
        path="server.tls",
        cert=tls.cert,
        key=tls.key,
        authority=tls.client_ca,
        authority_field="client_ca",
    )


def cluster_files(tls: ClusterTlsConfig) -> TlsFiles:
    """The files of `cluster.tls`."""
    return TlsFiles(
        path="cluster.tls", cert=tls.cert, key=tls.key, authority=tls.ca, authority_field="ca"
    )
