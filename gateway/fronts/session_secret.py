"""The secret of console sessions where none is configured: one for all processes of a gateway."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from gateway.config.gateway import GatewayConfig
from gateway.config.values import SecretConfig

FILE = "session-secret"


def with_session_secret(config: GatewayConfig, sockets: Path) -> GatewayConfig:
    """Returns the configuration with a secret from the folder of the sockets, so that a scheduler
    that replaces another one finds the same. A configured one stays."""
    if config.server.console_listen is None or config.console.session_secret is not None:
        return config
    file = (sockets / FILE).absolute()
    try:
        opened = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(opened, "w") as written:
            written.write(secrets.token_urlsafe(32))
    secret = SecretConfig(file=str(file))
    console = msgspec.structs.replace(config.console, session_secret=secret)
    return msgspec.structs.replace(config, console=console)
