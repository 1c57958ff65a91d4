"""Checks the TLS files that the configuration names: readable, PEM, certificate and key a pair."""

from __future__ import annotations

import ssl
from pathlib import Path

from gateway.config.problems import ConfigError, Problem
from gateway.config.server import TlsConfig


def check_server_tls(tls: TlsConfig, base_dir: Path) -> None:
    """Checks the files of `server.tls`, whose errors gRPC would report without a reason.

    Raises ConfigError that names the file which cannot be used.
    """
    for name in ("cert", "key", "client_ca"):
        file = getattr(tls, name)
        try:
            if file is not None:
                (base_dir / file).read_bytes()
        except OSError as error:
            raise _unusable(name, file, error.strerror or "cannot be read") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def no_password() -> str:
        raise _unusable("key", tls.key, "is encrypted")

    try:
        context.load_cert_chain(base_dir / tls.cert, base_dir / tls.key, no_password)
    except ssl.SSLError as error:
        reason = (error.reason or "not PEM").replace("_", " ").lower()
        raise _unusable("cert", tls.cert, f"does not go with the key: {reason}") from None
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(base_dir / tls.client_ca)
        except ssl.SSLError:
            raise _unusable("client_ca", tls.client_ca, "holds no PEM certificate") from None


def _unusable(field: str, file: str, message: str) -> ConfigError:
    problem = Problem(
        path=f"server.tls.{field}",
        value=file,
        message=message,
        fix="give PEM files: the certificate chain, its unencrypted key, the clients' authority",
    )
    return ConfigError("server.tls", [problem])
