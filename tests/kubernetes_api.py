"""As much of Kubernetes' API as tells EndpointSlices: they are listed and watched by versions, as
the API's documentation has it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.misbehaving import on_a_port

Object = dict[str, Any]
PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def endpoint(address: str, *, ready: bool | None = True) -> Object:
    """An endpoint. `ready` None: the API does not say."""
    return {"addresses": [address], "conditions": {} if ready is None else {"ready": ready}}


@dataclass
class KubernetesApi:
    """Knows one Service. `token`: what callers must bring; `status` other than 200: the only
    answer; `oldest`: first version from which can be watched."""

    namespace: str
    service: str
    token: str = "token"
    status: int = 200
    oldest: int = 0
    url: str = ""
    lists: int = 0
    watches: int = 0
    version: int = 1
    slices: dict[str, Object] = field(default_factory=dict)
    garbage: bytes = b""
    """What a watch writes in place of events."""
    _events: list[tuple[int, Object]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, name: str, *endpoints: Object, kind: str = "IPv4") -> None:
        """Makes or changes a slice."""
        event = "MODIFIED" if name in self.slices else "ADDED"
        self.version += 1
        found = self.slices[name] = {
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "resourceVersion": str(self.version),
                "labels": {"kubernetes.io/service-name": self.service},
            },
            "addressType": kind,
            "endpoints": list(endpoints) or None,
            "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
        }
        self._tell(event, found)

    def delete(self, name: str) -> None:
        """Deletes a slice."""
        self.version += 1
        found = self.slices.pop(name)
        found["metadata"]["resourceVersion"] = str(self.version)
        self._tell("DELETED", found)

    def bookmark(self) -> None:
        """Tells the version, as the API does now and then."""
        self.version += 1
        self._tell(
            "BOOKMARK",
            {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self.version)}},
        )

    def forget(self) -> None:
        """Nothing before now can be watched any more."""
        self.oldest = self.version + 1
        self.version += 1

    def _tell(self, kind: str, found: Object) -> None:
        self._events.append((self.version, json.loads(json.dumps({"type": kind, "object": found}))))
        self._changed.set()
        self._changed = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if self.status != 200:
            return _status(self.status, f"endpointslices is refused with {self.status}")
        assert request.match_info["namespace"] == self.namespace
        assert request.query["labelSelector"] == f"kubernetes.io/service-name={self.service}"
        if request.query.get("watch") == "1":
            return await self._watch(request)
        self.lists += 1
        metadata = {"resourceVersion": str(self.version)}
        items = list(self.slices.values())
        return web.json_response({"kind": "List", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches += 1
        version = int(request.query["resourceVersion"])
        if version < self.oldest and self.watches % 2:
            return _status(410, "too old resource version")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if version < self.oldest:  # it may also say so in the stream
            gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
            await _write(response, {"type": "ERROR", "object": gone})
            return response
        if self.garbage:
            await response.write(self.garbage)
            return response
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(float(request.query["timeoutSeconds"])):
                while True:
                    changed = self._changed
                    for number, event in list(self._events):
                        if number > version:
                            version = number
                            await _write(response, event)
                    await changed.wait()
        return response


async def _write(response: web.StreamResponse, event: Object) -> None:
    await response.write(json.dumps(event).encode() + b"\n")


def _status(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "message": message}
    return web.json_response(body, status=code)


@contextlib.asynccontextmanager
async def kubernetes_api(namespace: str, service: str) -> AsyncIterator[KubernetesApi]:
    """Serves the API on loopback."""
    api = KubernetesApi(namespace, service)
    app = web.Application()
    app.router.add_get(PATH, api.handle)
    async with on_a_port(app) as url:
        api.url = url
        yield api
