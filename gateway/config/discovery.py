"""The part of the configuration on replicas that are found in DNS."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

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


class DiscoveryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Replicas found in DNS: every address of a name is one vLLM server, as behind a headless
    Service of Kubernetes. The name is looked up again and again: new addresses are probed and take
    requests, addresses that are gone get no new ones and finish their streams."""

    dns: HostName
    """Name to look up; one without dots at its end is also tried in the search domains."""
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
    """Longest time between two look-ups, however long the answer's TTL."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 3.0
    """Longest time of one look-up."""
    nameserver: NameServer | None = None
    """DNS server to ask; absent: those of the system (/etc/resolv.conf)."""
