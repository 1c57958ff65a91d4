"""Looks up the ready endpoints of a Service by Kubernetes' API: lists its EndpointSlices, and then
waits for their changes.

The first call lists. Each later one watches from where the last one ended, and returns when the
ready endpoints have changed, so that a server that ends is known a moment after its pod was told
to. When nothing changes for `max_refresh_s`, or Kubernetes has forgotten the version from which to
watch, all slices are listed anew.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from gateway.config.discovery import ACCOUNT, DiscoveryConfig, EndpointSlicesConfig
from gateway.fleet.found import Answer, LookupFailed, in_order

LIST_BYTES = 16 << 20
"""Largest list of slices."""
EVENT_BYTES = 2 << 20
"""Largest event: a slice has at most 1,000 endpoints."""
_ERROR_CHARACTERS = 300
_HTTP_FAILURES = (
    *(aiohttp.ClientError, aiohttp.http.HttpProcessingError),
    *(OSError, TimeoutError, ValueError),
)
_GONE = 410  # the version from which to watch is too old
T = TypeVar("T")


class _Conditions(msgspec.Struct):
    ready: bool | None = None


class _Endpoint(msgspec.Struct):
    addresses: list[str]
    conditions: _Conditions | None = None

    @property
    def is_ready(self) -> bool:
        """Unknown counts as ready, as Kubernetes says."""
        return self.conditions is None or self.conditions.ready is not False


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Slice(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    address_type: str = ""
    endpoints: list[_Endpoint] | None = None


class _List(msgspec.Struct):
    metadata: _Metadata
    items: list[_Slice] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    message: str = ""


class EndpointSliceLookup:
    """Looks up one Service, each time it is called."""

    def __init__(self, service: EndpointSlicesConfig, settings: DiscoveryConfig) -> None:
        self._service = service
        self._settings = settings
        self._slices: dict[str, _Slice] = {}
        self._version = ""
        """From where to watch; empty: all are listed."""

    async def __call__(self) -> Answer:
        """IPv4 addresses, or IPv6 ones if there are none: a server that has both is one server.
        Returns at once the first time, and else when they have changed or `max_refresh_s` is over.

        Raises LookupFailed.
        """
        try:
            if not self._version or not await self._watch():
                await self._list()
        except LookupFailed:
            self._version = ""
            raise
        except _HTTP_FAILURES as error:
            self._version = ""
            raise LookupFailed(f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]) from None
        return Answer(addresses=self._addresses(), ttl_s=0.0, is_certain=True)

    def _addresses(self) -> tuple[str, ...]:
        by_type: dict[str, list[str]] = {"IPv4": [], "IPv6": []}
        for each in self._slices.values():
            for endpoint in each.endpoints or ():
                # The addresses of one endpoint are one server: the first is that of its pod.
                if endpoint.is_ready and endpoint.addresses and each.address_type in by_type:
                    by_type[each.address_type].append(_checked(endpoint.addresses[0]))
        return in_order(by_type["IPv4"] or by_type["IPv6"])

    async def _list(self) -> None:
        async with self._asked({}, self._settings.timeout_s) as response:
            body = await _whole(response)
        found = _decoded(body, _List)
        self._slices = {each.metadata.name: each for each in found.items or ()}
        self._version = found.metadata.resource_version

    async def _watch(self) -> bool:
        """Waits for a change. False: there was none, or it is unknown whether there was."""
        before, wait_s = self._addresses(), math.ceil(self._settings.max_refresh_s)
        parameters = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(wait_s),
        }
        async with self._asked(parameters, wait_s + self._settings.timeout_s) as response:
            if response.status == _GONE:
                return False
            async for line in response.content:
                if not self._take(_decoded(line, _Event)):
                    return False
                if self._addresses() != before:
                    return True
        return False

    def _take(self, event: _Event) -> bool:
        """Takes an event in. False: the watch has failed, such as from a version too old."""
        if event.type == "ERROR":
            return False
        if event.type == "BOOKMARK":
            self._version = _decoded(event.object, _Slice).metadata.resource_version
            return True
        changed = _decoded(event.object, _Slice)
        self._version = changed.metadata.resource_version
        if event.type == "DELETED":
            self._slices.pop(changed.metadata.name, None)
        else:
            self._slices[changed.metadata.name] = changed
        return True

    @asynccontextmanager
    async def _asked(
        self, parameters: dict[str, str], longest_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request for slices, of which the body is still to be read."""
        server, namespace, tls = await asyncio.to_thread(self._where)
        token = await asyncio.to_thread(_read, self._service.token_file, "token_file")
        url = f"{server}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        selector = f"kubernetes.io/service-name={self._service.service}"
        timeout = aiohttp.ClientTimeout(total=longest_s, sock_connect=self._settings.timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=EVENT_BYTES) as session,
            session.get(
                url,
                params={"labelSelector": selector, **parameters},
                headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
                ssl=tls,
                allow_redirects=False,
            ) as response,
        ):
            if response.status not in (200, _GONE):
                raise LookupFailed(await _refusal(response))
            yield response

    def _where(self) -> tuple[str, str, ssl.SSLContext | bool]:
        """Address of the API, namespace, and what judges its certificate. Blocks."""
        server = self._service.api_server
        if server is None:
            host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
            if not host:
                raise LookupFailed("no cluster around the gateway: give endpoint_slices.api_server")
            port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        namespace = self._service.namespace or _read(f"{ACCOUNT}/namespace", "namespace")
        tls: ssl.SSLContext | bool = True
        if server.startswith("https:"):
            try:
                tls = ssl.create_default_context(cafile=self._service.ca_file)
            except OSError as error:
                raise LookupFailed(f"ca_file {self._service.ca_file}: {error}") from None
        return server.rstrip("/"), namespace, tls


def _read(path: str, what: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LookupFailed(f"{what} {path}: {error}") from None


def _checked(address: str) -> str:
    """Raises LookupFailed if it is no IP address."""
    try:
        ip_address(address)
    except ValueError:
        raise LookupFailed(f"an endpoint has no IP address but {address[:64]!r}") from None
    return address


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > LIST_BYTES:
            raise LookupFailed(f"the list is larger than {LIST_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _refusal(response: aiohttp.ClientResponse) -> str:
    """What Kubernetes says, and what helps."""
    body = await response.content.read(EVENT_BYTES)
    try:
        said = msgspec.json.decode(body, type=_Status).message
    except msgspec.DecodeError:
        said = body.decode(errors="replace")
    text = f"{response.status} {said[:_ERROR_CHARACTERS]}".rstrip()
    if response.status == 403:
        return f"{text}; give the account of the pod the verbs list and watch on endpointslices"
    return text


def _decoded(content: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise LookupFailed(f"not what Kubernetes writes: {error}") from None
