"""Configuration of KV events, which engines publish about their prefix caches."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=1, le=65_535)]


class KvEventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """vLLM's KV events (--kv-events-config): which blocks of tokens each prefix cache holds. The
    hits of a placement are then known exactly for prompts given as token ids. Events hold the
    tokens of all prompts, in plain text."""

    port: Port = 5557
    """Port of a replica's first data-parallel rank, at the host of its URL; each further rank
    publishes on the next one."""
    replay_port: Port | None = None
    """Port of its `replay_endpoint`, one more for each further rank: events that were published
    before the gateway listened, or that it missed, are requested there. Absent: they stay
    unknown."""
    topic: Annotated[str, Meta(max_length=256)] = ""
    """Topic that they publish under; empty: any."""
