"""API keys of callers in the configuration: only the SHA-256 of a key is kept and compared."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gateway.config.gateway import KeyConfig
from gateway.config.problems import ConfigError, Problem
from gateway.config.resolve.secrets import resolve


def key_sha256(key: str) -> str:
    """The hash of a key, 64 hex digits.

    A plain SHA-256: keys are random, of 256 bits, and cannot be guessed whatever a guess costs. A
    slow, salted hash protects passwords that people choose, and would slow down every request.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def key_hash(key: KeyConfig, base_dir: Path) -> str:
    """The hash of a configured key. Raises ConfigError, its paths relative to the key: neither or
    both of `sha256` and `api_key` are given, or the secret cannot be read."""
    if key.sha256 is None and key.api_key is not None:
        try:
            return key_sha256(resolve(key.api_key, base_dir) or "")
        except ConfigError as error:
            problems = [problem.under("api_key") for problem in error.problems]
            raise ConfigError(error.source, problems) from None
    if key.sha256 is not None and key.api_key is None:
        return key.sha256
    problem = Problem(
        path="",
        value="neither" if key.sha256 is None else "both",
        message="exactly one of sha256 and api_key is needed",
        fix="give the hash that `moegate key` prints, or api_key: {file: PATH}",
    )
    raise ConfigError("key", [problem])
