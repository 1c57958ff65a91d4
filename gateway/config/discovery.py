"""The part of the configuration on replicas that are found: in DNS, or in Kubernetes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import Url

HostName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}\.?)*$",
        max_length=253,
        description="Labels of letters, digits, hyphens and underscores, with dots between them.",
    ),
]
NameServer = Annotated[
    str,
    Meta(
        pattern=r"^([0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$",
        description="Address and port, such as 10.96.0.10:53.",
    ),
]


ObjectName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        max_length=63,
        description="Lower-case letters, digits and hyphens, as Kubernetes names a Service.",
    ),
]
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod finds the token of its service account, the API's certificate, and its namespace."""


class EndpointSlicesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ready endpoints of a Service of Kubernetes, told by its API as they change. The account
    of the gateway's pod needs the verbs `list` and `watch` on `endpointslices`."""

    service: ObjectName
    """Name of the Service."""
    namespace: ObjectName | None = None
    """Its namespace; absent: that of the gateway's pod."""
    api_server: Url | None = None
    """Address of Kubernetes' API; absent: that of the cluster in which the gateway runs."""
    token_file: str = f"{ACCOUNT}/token"
    """File of the bearer token; it is read again for each request."""
    ca_file: str = f"{ACCOUNT}/ca.crt"
    """Certificates by which an https API is judged (PEM)."""

    def __str__(self) -> str:
        prefix = "" if self.namespace is None else f"{self.namespace}/"
        return f"Service {prefix}{self.service}"


class DiscoveryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Replicas that are found: every address of a name in DNS (as behind a headless Service of
    Kubernetes), or every ready endpoint of a Service, is one vLLM server. Both are looked up again
    and again: new addresses are probed and take requests, addresses that are gone get no new ones
    and finish their streams."""

    dns: HostName | None = None
    """Name to look up; one without dots at its end is also tried in the search domains. Absent:
    `endpoint_slices` finds the servers."""
    endpoint_slices: EndpointSlicesConfig | None = None
    """Finds the servers by Kubernetes' API, sooner than DNS tells them; absent: in DNS."""
    port: Annotated[int, Meta(ge=1, le=65_535)]
    """Port of vLLM's OpenAI API at each address."""
    max_replicas: Annotated[int, Meta(ge=1, le=256)] = 16
    """Most replicas at once, with those that only finish their streams. The pool has one numbered
    place for each."""
    start_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    """Longest time until an autoscaler that follows the queue (`moegate_queue_depth`) has started a
    server when there is none: requests wait for it within their deadlines, unless a remote may take
    them. Absent: without a server they are refused."""
    min_refresh_s: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    """Shortest time between two look-ups, however short the answer's TTL."""
    max_refresh_s: Annotated[float, Meta(gt=0, le=3600)] = 15.0
    """Longest time between two look-ups, however long the answer's TTL; with `endpoint_slices` the
    longest wait for a change before all are listed anew."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 3.0
    """Longest time of one look-up."""
    nameserver: NameServer | None = None
    """DNS server to ask; absent: those of the system (/etc/resolv.conf)."""

    @property
    def source(self) -> str:
        """What is looked up, in words."""
        return self.dns or str(self.endpoint_slices)
