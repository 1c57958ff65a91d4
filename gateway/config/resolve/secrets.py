"""Reads secrets from the environment or from files; they are checked and never shown."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.config.problems import ConfigError, Problem, shown
from gateway.config.server import ConsoleConfig
from gateway.config.values import SecretConfig

MAX_BYTES = 16 * 1024
"""Longest secret: most servers refuse longer HTTP headers."""
SESSION_SECRET_CHARACTERS = 32
"""Shortest secret of sessions."""


def resolve(secret: SecretConfig | None, base_dir: Path) -> str | None:
    """The secret itself; None for None. Relative files lie in `base_dir`.

    Raises ConfigError, its paths relative to the secret: neither or both of `env` and `file` are
    given, it is not set or not readable, or it is not a single word of visible ASCII, which an HTTP
    header needs.
    """
    match secret:
        case None:
            return None
        case SecretConfig(env=str(name), file=None):
            return _checked("env", name, _from_environment(name))
        case SecretConfig(env=None, file=str(name)):
            return _checked("file", name, _from_file(name, base_dir / name))
    found = "neither" if secret.env is None else "both"
    raise _error("", found, "exactly one of env and file is needed", "give env: NAME or file: PATH")


def session_secret(console: ConsoleConfig, base_dir: Path) -> str | None:
    """The secret of the console's sessions; None: none is configured. Raises ConfigError, its paths
    relative to the secret."""
    found = resolve(console.session_secret, base_dir)
    if found is not None and len(found) < SESSION_SECRET_CHARACTERS:
        message = "sessions could be forged by who guesses it"
        fix = f"give {SESSION_SECRET_CHARACTERS} random characters or more: openssl rand -hex 32"
        raise _error("", f"{len(found)} characters", message, fix)
    return found


def _from_environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        message = "the environment variable is not set"
        raise _error("env", shown("api_key.env", name), message, "set it where the gateway runs")
    return value


def _from_file(name: str, path: Path) -> str:
    fix = f"let {path} hold the secret, readable for the gateway"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _error("file", shown("", name), f"cannot be read: {reason}", fix) from None
    if len(raw) > MAX_BYTES:
        raise _error("file", shown("", name), f"holds more than {MAX_BYTES} bytes", fix)
    return raw.removesuffix(b"\n").removesuffix(b"\r").decode("ascii", errors="replace")


def _checked(field: str, name: str, value: str) -> str:
    found = shown(f"api_key.{field}", name)
    if not value:
        raise _error(field, found, "the secret is empty", "put the secret there")
    if "\n" in value or "\r" in value:
        raise _error(field, found, "the secret has a line break inside", "keep it on one line")
    if not all("!" <= character <= "~" for character in value):
        message = "the secret holds spaces or characters that no HTTP header may hold"
        raise _error(field, found, message, "keep only the secret itself: visible ASCII")
    return value


def _error(path: str, value: str, message: str, fix: str) -> ConfigError:
    return ConfigError("secret", [Problem(path=path, value=value, message=message, fix=fix)])
