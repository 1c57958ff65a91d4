"""Checks between the fields of a remote that is another moegate."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.gateway import GatewayConfig, RemoteConfig
from gateway.config.problems import Problem, nearest, problem
from gateway.config.remote import Feature, OtherGatewayConfig, RemoteApi

_METADATA_NAME = re.compile(r"[a-z0-9_.-]+\Z")
_RESERVED = ("moegate-", "grpc-")
"""Prefixes of the metadata that the gateway and gRPC set themselves."""


def scheme_problems(path: str, remote: RemoteConfig) -> Iterator[Problem]:
    """Problems of the address: its scheme must be that of the API."""
    grpc_wanted = remote.api is RemoteApi.MOEGATE
    wanted = ("grpc", "grpcs") if grpc_wanted else ("http", "https")
    if remote.url.partition("://")[0] not in wanted:
        fix = f"write {wanted[0]}://host:port, or {wanted[1]}:// over TLS"
        message = f"api {remote.api.value} is not spoken there"
        yield problem(f"{path}.url", remote.url, message, fix)
    if not grpc_wanted and remote.gateway != OtherGatewayConfig():
        message = f"api is {remote.api.value}, which has no use for it"
        yield Problem(
            path=f"{path}.gateway", value="set", message=message, fix="remove it, or api: moegate"
        )


def gateway_problems(path: str, remote: RemoteConfig, base_dir: Path) -> Iterator[Problem]:
    """All other problems of a remote that is another moegate."""
    try:
        parts = urlsplit(remote.url)
        if parts.port is None or parts.path not in ("", "/"):
            message = "a gateway is a host and a port, nothing else"
            yield problem(f"{path}.url", remote.url, message, "write grpc://host:port")
    except ValueError:
        pass  # reported with all addresses
    if remote.extra_body_json is not None:
        message = "a gRPC request has no further fields"
        yield problem(f"{path}.extra_body_json", remote.extra_body_json, message, "remove it")
    if remote.url_prefix != "/v1":
        message = "gRPC has no such paths"
        yield problem(f"{path}.url_prefix", remote.url_prefix, message, "remove it")
    for i, feature in enumerate(remote.can):
        if feature is Feature.CONTINUATION:
            message = "the API has no word for it"
            yield problem(f"{path}.can[{i}]", feature.value, message, "remove it")
    for i, header in enumerate(remote.headers):
        name = header.name.lower()
        where = f"{path}.headers[{i}].name"
        if not _METADATA_NAME.match(name) or name.endswith("-bin"):
            message = "no name of text metadata in gRPC"
            yield problem(where, header.name, message, "keep to letters, digits and _ . -")
        elif name.startswith(_RESERVED):
            yield problem(where, header.name, "the gateway sets it itself", "remove it")
    yield from _tls(f"{path}.gateway", remote, base_dir)


def shared_class_problems(config: GatewayConfig) -> Iterator[Problem]:
    """Shared classes that no remote has. No caller can be allowed such a class, so that a misspelt
    one would keep every request on the self-hosted servers of the other gateway."""
    known = {remote.remote_class for remote in config.remotes}
    for i, remote in enumerate(config.remotes):
        for k, name in enumerate(remote.gateway.shared_classes):
            if name not in known:
                guess = nearest(name, known)
                fix = (
                    f"did you mean {guess}?" if guess else f"there are: {', '.join(sorted(known))}"
                )
                path = f"remotes[{i}].gateway.shared_classes[{k}]"
                yield problem(path, name, "no remote has it", fix)


def _tls(path: str, remote: RemoteConfig, base_dir: Path) -> Iterator[Problem]:
    options = remote.gateway
    files = {"ca": options.ca, "cert": options.cert, "key": options.key}
    given = {name: file for name, file in files.items() if file is not None}
    if given and not remote.url.startswith("grpcs://"):
        for name, file in given.items():
            message = "the address is plain text, without TLS"
            yield problem(f"{path}.{name}", file, message, "write grpcs://, or remove it")
        return
    if ("cert" in given) != ("key" in given):
        name = "cert" if "cert" in given else "key"
        yield problem(f"{path}.{name}", given[name], "cert and key go together", "give both")
        return
    for name, file in given.items():
        try:
            (base_dir / file).read_bytes()
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            yield problem(f"{path}.{name}", file, message, "let the gateway read it")
            return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if options.ca is not None:
            name = "ca"
            context.load_verify_locations(base_dir / options.ca)
        if options.cert is not None and options.key is not None:
            name = "cert"
            context.load_cert_chain(base_dir / options.cert, base_dir / options.key, lambda: "")
    except (ssl.SSLError, ValueError):
        message = "no PEM certificate" if name == "ca" else "does not go with the key, or no PEM"
        yield problem(f"{path}.{name}", given[name], message, "give PEM files, not encrypted")
