"""What a server tells about its LoRA adapters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterReport:
    """The LoRA adapters of one self-hosted placement, by the names that clients use.

    `loaded`: adapters that the server lists; a request for another one would fail there. `active`:
    adapters of running and waiting requests of all clients. `most_active`: adapters that may run at
    once in one batch (vLLM's --max-loras). None: unknown.
    """

    placement: str
    loaded: frozenset[str]
    active: frozenset[str] | None = None
    most_active: int | None = None
