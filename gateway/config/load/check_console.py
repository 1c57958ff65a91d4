"""Checks of `console`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.gateway import GatewayConfig
from gateway.config.problems import ConfigError, Problem, problem
from gateway.config.resolve.secrets import resolve, session_secret
from gateway.config.server import OidcConfig, SignInRuleConfig
from gateway.config.values import SecretConfig


def console_problems(config: GatewayConfig, base_dir: Path) -> Iterator[Problem]:
    """Problems of `console`, and of what does not go with it."""
    console = config.console
    try:
        session_secret(console, base_dir)
    except ConfigError as error:
        for each in error.problems:
            yield each.under("console.session_secret")
    shared = config.cluster is not None and config.server.console_listen is not None
    if shared and console.session_secret is None:
        message = "the gateways of a cluster share sessions, and so their secret"
        fix = "give session_secret: {file: PATH}, the same in all of them"
        yield Problem(path="console.session_secret", value="absent", message=message, fix=fix)
    if console.public_url is not None:
        yield from _public_url(console.public_url)
    if console.oidc is not None:
        if console.public_url is None:
            message = "the provider sends people back there"
            fix = "give the address of the console in browsers"
            yield Problem(path="console.public_url", value="absent", message=message, fix=fix)
        yield from _oidc("console.oidc", console.oidc, config, base_dir)


def _public_url(url: str) -> Iterator[Problem]:
    if urlsplit(url).path not in ("", "/"):
        message = "the console has no path of its own"
        yield problem("console.public_url", url, message, "write https://host")


def _oidc(path: str, oidc: OidcConfig, config: GatewayConfig, base_dir: Path) -> Iterator[Problem]:
    if not oidc.issuer.startswith("https://") and not _is_loopback(oidc.issuer):
        message = "who can change this traffic could sign in as anybody"
        yield problem(f"{path}.issuer", oidc.issuer, message, "write https://")
    if "openid" not in oidc.scopes:
        found = " ".join(oidc.scopes)
        yield problem(f"{path}.scopes", found, "a provider needs `openid`", "add openid")
    yield from _secret(f"{path}.client_secret", oidc.client_secret, base_dir)
    if not oidc.rules:
        message = "nobody could sign in"
        fix = "give a rule, such as {claim: groups, value: admins, role: operator, tenant: ops}"
        yield Problem(path=f"{path}.rules", value="empty", message=message, fix=fix)
    for i, rule in enumerate(oidc.rules):
        yield from _rule(f"{path}.rules[{i}]", rule, config)


def _rule(path: str, rule: SignInRuleConfig, config: GatewayConfig) -> Iterator[Problem]:
    by_key = rule.key_id is not None
    by_role = rule.role is not None and rule.tenant is not None
    if by_key == by_role or (by_key and (rule.role, rule.tenant) != (None, None)):
        message = "either key_id, or role and tenant"
        yield Problem(path=path, value=rule.value, message=message, fix="give one of both ways")
    tenants = {tenant.name for tenant in config.tenants}
    if rule.tenant is not None and rule.tenant not in tenants:
        yield problem(f"{path}.tenant", rule.tenant, "there is no such tenant", "add it to tenants")
    keys = {key.id for tenant in config.tenants for key in tenant.keys}
    if rule.key_id is not None and rule.key_id not in keys:
        yield problem(f"{path}.key_id", rule.key_id, "there is no such key", "add it to a tenant")


def _secret(path: str, secret: SecretConfig | None, base_dir: Path) -> Iterator[Problem]:
    try:
        resolve(secret, base_dir)
    except ConfigError as error:
        for each in error.problems:
            yield each.under(path)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
