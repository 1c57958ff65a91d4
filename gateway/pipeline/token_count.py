"""Exact prompt token counts from a replica's tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Generation
from gateway.domain.pooling import PoolingInput, input_texts, input_token_ids
from scheduler.contract import PlacementKind
from scheduler.fleet_view import FleetView

log = logging.getLogger(__name__)


@runtime_checkable
class Counter(Protocol):
    """An upstream client that can count prompt tokens."""

    async def count_tokens(self, generation: Generation) -> tuple[int, object]:
        """Returns the count first. Raises UpstreamFailure."""


async def exact_prompt_tokens(
    fleet: FleetView, counters: Mapping[str, object], generation: Generation
) -> int | None:
    """Asks the serving self-hosted replicas in order, and returns the first count; None: no replica
    could count, or the request has several texts.

    `counters`: upstream client per placement. Raises UpstreamFailure if a replica rejects the
    request itself.
    """
    if isinstance(generation.input, PoolingInput):
        has_texts = any(True for _ in input_texts(generation.input))
        return None if has_texts else input_token_ids(generation.input)
    for placement in fleet.of_model(generation.model):
        client = counters.get(placement.name)
        if placement.kind is not PlacementKind.SELF_HOSTED or not placement.serving:
            continue
        if isinstance(client, Counter):
            try:
                tokens, _ = await client.count_tokens(generation)
            except UpstreamFailure as failure:
                if not failure.retryable:
                    raise
                log.warning("%s cannot count tokens: %s", placement.name, failure)
            else:
                return tokens
    return None
