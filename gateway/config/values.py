"""Values that many parts of the configuration hold: names, and secrets by reference."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

# In patterns: [0-9], because \d is every digit of Unicode. Line breaks and control characters are
# refused in every text (`syntax/shape.py`), because $ lets a final line break pass.
Url = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="http:// or https:// address without user, query and fragment.",
    ),
]
HostPort = Annotated[
    str, Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^:\s]+):[0-9]{1,5}$", description="host:port")
]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Letters, digits, dots, underscores and hyphens, at most 63 characters.",
    ),
]
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
EnvName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$",
        description="Name of an environment variable, not its value.",
    ),
]


class KeyRole(enum.StrEnum):
    """Role of the holder of a key. Each role includes those before it."""

    CALLER = "caller"
    """Calls models."""
    TENANT_ADMIN = "tenant_admin"
    """Sees and changes what belongs to its tenant."""
    OPERATOR = "operator"
    """Operates the gateway."""


class SecretConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A secret by reference: exactly one of `env` and `file`."""

    env: EnvName | None = None
    """Name of the environment variable that holds it."""
    file: Annotated[str, Meta(min_length=1)] | None = None
    """Path of the file that holds it, relative to the folder of the configuration file; a final
    newline is not part of the secret."""
