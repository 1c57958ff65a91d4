"""Authenticates callers: from the API key in the metadata of a call to the `Caller`.

Only hashes of keys are kept, and no key appears in an error or a log. Keys come from the
configuration file and, at run time, from an `AccessTable`. Where there is a console, the token of
one of its sessions (`sessions.py`) is taken like a key.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.auth.run_time import NO_RUN_TIME_ACCESS, AccessTable
from gateway.auth.sessions import PREFIX, KeySession, PersonSession, Sessions
from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole, TenantConfig
from gateway.config.limits import LimitsConfig
from gateway.config.resolve.api_keys import key_hash
from gateway.config.resolve.secrets import resolve, session_secret
from gateway.config.server import SignInRuleConfig
from scheduler.contract import SloClass
from scheduler.limits.rate_limit import RateLimits

MAX_KEY_CHARACTERS = 512
"""Longest key that is hashed, which bounds the work that an unknown caller can cause."""
_PREFIX_BYTES = 8
PERSON = "oidc:"
"""Beginning of the key id of people who have a role without a key; no key's id has a colon."""


class Unauthenticated(Exception):
    """There is no key, or it is unknown. The text says which, and never holds the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The holder of a key, and the permissions and limits of the key.

    `models`, `remote_classes`: None means all. `slo_classes`: empty means all; the first one is the
    default. `min_ttft_s`, `min_tpot_s`: None means the figures of the class. `max_output_tokens`:
    summed over the choices of a request; None means the gateway's limit.
    """

    tenant: str
    key_id: str
    role: KeyRole
    weight: float
    models: frozenset[str] | None
    slo_classes: tuple[SloClass, ...]
    remote_classes: frozenset[str] | None
    limits: RateLimits
    min_ttft_s: float | None = None
    min_tpot_s: float | None = None
    max_priority: int = 0
    max_output_tokens: int | None = None
    message_bytes: int
    """Largest request that the key may send, inflated."""
    body_bytes: int
    """Largest body of an HTTP request that the key may send, inflated."""
    tenant_rpcs: int | None = None
    """Most RPCs of the tenant in progress; None: the gateway's limit."""
    subject: str | None = None
    """The person who signed in, such as an e-mail address; None: whoever holds the key."""

    @property
    def actor(self) -> str:
        """Who acts, for audit logs: the person, else the id of the key."""
        return self.key_id if self.subject is None else self.subject

    def allows_model(self, model: str) -> bool:
        """Whether the caller may use the model."""
        return self.models is None or model in self.models

    def allows_slo_class(self, slo_class: SloClass) -> bool:
        """Whether the caller may request this class of service."""
        return not self.slo_classes or slo_class in self.slo_classes

    def allows_remote_class(self, remote_class: str) -> bool:
        """Whether remotes of this class may see the content of its requests."""
        return self.remote_classes is None or remote_class in self.remote_classes


@dataclass(frozen=True, slots=True)
class _Known:
    """A secret of a caller, and when it ends: Unix seconds, or infinity."""

    digest: bytes
    caller: Caller
    until_unix_s: float = math.inf


class Authenticator:
    """Finds the caller of a key. Immutable, made from a checked configuration."""

    def __init__(
        self, config: GatewayConfig, base_dir: Path, wall: Callable[[], float] = time.time
    ) -> None:
        """`base_dir`: folder that files of secrets are relative to. `wall`: Unix seconds. Raises
        ConfigError."""
        self.sessions: Sessions | None = None
        self.client_secret: str | None = None
        """Secret of the gateway at the provider of `console.oidc`."""
        if config.server.console_listen is not None:
            self.sessions = Sessions(config.console, session_secret(config.console, base_dir), wall)
            oidc = config.console.oidc
            self.client_secret = None if oidc is None else resolve(oidc.client_secret, base_dir)
        declared = [
            _Known(
                bytes.fromhex(key_hash(key, base_dir)), caller_of_key(tenant, key, config.limits)
            )
            for tenant in config.tenants
            for key in tenant.keys
        ]
        self._fill(config, wall, declared, NO_RUN_TIME_ACCESS)

    def with_table(self, table: AccessTable) -> Authenticator:
        """Returns one with the same configuration and the keys of a table in place of those that
        this one has. Those that the file shadows are left out."""
        made = Authenticator.__new__(Authenticator)
        made.sessions, made.client_secret = self.sessions, self.client_secret
        made._fill(self._config, self._wall, self._declared, table)
        return made

    def _fill(
        self,
        config: GatewayConfig,
        wall: Callable[[], float],
        declared: Sequence[_Known],
        table: AccessTable,
    ) -> None:
        self._config = config
        self._wall = wall
        self._declared = declared
        # Looked up by the first bytes of the hash, so that a thousand keys cost no more than one.
        # The time of that look-up reveals nothing useful: nobody can choose a key by its hash.
        self._known: dict[bytes, list[_Known]] = {}
        self._by_id: dict[str, _Known] = {}
        for known in declared:
            self._add(known)
            self._by_id[known.caller.key_id] = known
        tenants = {tenant.name: tenant for tenant in (*table.tenants, *config.tenants)}
        for key in table.keys:
            tenant = tenants.get(key.tenant)
            if tenant is None or key.config.id in self._by_id:
                continue
            caller = caller_of_key(tenant, key.config, config.limits)
            expires = math.inf if key.expires_unix_s is None else key.expires_unix_s
            self._by_id[key.config.id] = _Known(b"", caller, expires)
            for secret in key.secrets:
                ends = math.inf if secret.until_unix_s is None else secret.until_unix_s
                self._add(_Known(bytes.fromhex(secret.sha256), caller, min(expires, ends)))

    def _add(self, known: _Known) -> None:
        self._known.setdefault(known.digest[:_PREFIX_BYTES], []).append(known)

    def authenticate(self, metadata: Sequence[tuple[str, str | bytes]]) -> Caller:
        """The caller, from `authorization: Bearer KEY` or `x-api-key: KEY`.

        Raises Unauthenticated.
        """
        presented = _presented(metadata)
        if self.sessions is not None and presented.startswith(PREFIX):
            return self._of_session(self.sessions, presented)
        return self._of_digest(key_digest(presented))

    def _of_digest(self, digest: bytes) -> Caller:
        for known in self._known.get(digest[:_PREFIX_BYTES], ()):
            if hmac.compare_digest(known.digest, digest):
                if self._wall() >= known.until_unix_s:
                    raise Unauthenticated("the API key has expired")
                return known.caller
        raise Unauthenticated("the API key is not known")

    def _of_session(self, sessions: Sessions, token: str) -> Caller:
        session = sessions.read(token)
        if session is None:
            raise Unauthenticated("the session has ended: sign in again")
        if isinstance(session, KeySession):
            return self._of_digest(session.digest)
        rule = sessions.rule(session)
        caller = None if rule is None else self._of_rule(rule, session)
        if caller is None:
            raise Unauthenticated("what allowed this session is not in force any more")
        return replace(caller, subject=session.subject)

    def _of_rule(self, rule: SignInRuleConfig, session: PersonSession) -> Caller | None:
        if rule.key_id is not None:
            return self.caller_of(rule.key_id)
        named = (tenant for tenant in self._config.tenants if tenant.name == rule.tenant)
        tenant = next(named, None)
        if tenant is None or rule.role is None:
            return None
        key = KeyConfig(id=f"{PERSON}{session.subject}", role=rule.role)
        return caller_of_key(tenant, key, self._config.limits)

    def caller_of(self, key_id: str) -> Caller | None:
        """The caller of a key that was authenticated before, by the id of the key; None: there is
        no such key any more."""
        known = self._by_id.get(key_id)
        return None if known is None or self._wall() >= known.until_unix_s else known.caller


def key_digest(key: str) -> bytes:
    """The hash by which a key is known."""
    return hashlib.sha256(key.encode()).digest()


def _presented(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    found = [(name, value) for name, value in metadata if name in ("authorization", "x-api-key")]
    if not found:
        raise Unauthenticated("no API key: send `authorization: Bearer KEY` or `x-api-key: KEY`")
    if len(found) > 1:
        # A proxy in front of the gateway might use the other one.
        raise Unauthenticated("more than one API key: send exactly one")
    name, value = found[0]
    if not isinstance(value, str):
        raise Unauthenticated(f"{name} is not text")
    if len(value) > MAX_KEY_CHARACTERS:
        raise Unauthenticated(f"{name} is longer than {MAX_KEY_CHARACTERS} characters")
    key = value
    if name == "authorization":
        scheme, _, key = value.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("authorization is not of the form `Bearer KEY`")
    key = key.strip(" ")
    if not key or not key.isascii() or not key.isprintable():
        raise Unauthenticated(f"{name} holds no valid API key")
    return key


def caller_of_key(tenant: TenantConfig, key: KeyConfig, limits: LimitsConfig) -> Caller:
    """The holder of a key, as the configuration describes both."""
    message_bytes = key.limits.message_bytes or min(limits.key_message_bytes, limits.message_bytes)
    return Caller(
        tenant=tenant.name,
        key_id=key.id,
        role=key.role,
        weight=tenant.weight,
        models=frozenset(key.models) or None,
        slo_classes=key.slo_classes,
        remote_classes=None if key.remote_classes is None else frozenset(key.remote_classes),
        min_ttft_s=key.min_ttft_s,
        min_tpot_s=key.min_tpot_s,
        max_priority=key.max_priority,
        max_output_tokens=key.limits.max_output_tokens,
        limits=RateLimits(
            requests_per_minute=key.limits.requests_per_minute,
            tokens_per_minute=key.limits.tokens_per_minute,
            concurrent_requests=key.limits.concurrent_requests,
        ),
        message_bytes=message_bytes,
        body_bytes=key.limits.message_bytes or limits.http_body_bytes,
        tenant_rpcs=tenant.rpcs,
    )
