"""KV caches that an engine fetches from the one that computed their prompts.

vLLM's NIXL connector pulls them: the engine that decodes counts its transfers, and the other one
none. Until a cache is there its request counts as waiting. Bucket bounds are those of vLLM 0.32
(tests/golden/vllm_0_32/metrics_pair_decode.txt).
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from simulation.engine.counters import Histogram
from simulation.engine.sequences import TokenRequest

POST_S = 2e-4
"""Time in which a transfer is handed to the network."""
_POST_BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0)
_BYTE_BOUNDS = tuple(float(2**power) for power in range(11, 35, 2))
_DESCRIPTOR_BOUNDS = (
    *(10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 400.0, 1000.0, 2000.0, 4000.0),
    *(10000.0, 20000.0, 50000.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvConnector:
    """The way of KV caches between engines.

    `transfer_ms`: of each transfer, beside that of its bytes; `bytes_per_s`: speed of the network;
    `token_bytes`: KV cache of a token.
    """

    transfer_ms: float = 2.0
    bytes_per_s: float = 12.5e9
    token_bytes: int = 98_304


class Transfers:
    """The transfers of one engine; without a connector there are none. `under_way`: requests that
    wait for theirs; `tokens`: prompt tokens of the others."""

    def __init__(self, connector: KvConnector | None, block_size: int, speed: float) -> None:
        self._connector = connector
        self._block_size = block_size
        self._speed = speed
        self.under_way = 0
        self.tokens = 0
        self.seconds = Histogram(_POST_BOUNDS_S[1:])
        self.post_seconds = Histogram(_POST_BOUNDS_S)
        self.bytes = Histogram(_BYTE_BOUNDS)
        self.descriptors = Histogram(_DESCRIPTOR_BOUNDS)

    async def fetch(self, request: TokenRequest) -> None:
        """Waits until the KV cache of a request is here, if it comes from another engine."""
        connector = self._connector
        if connector is None or not request.transferred:
            return
        blocks = math.ceil(request.prompt_tokens / self._block_size)
        moved = blocks * self._block_size * connector.token_bytes
        begin_s = time.monotonic()
        self.under_way += 1
        try:
            taken_s = connector.transfer_ms / 1e3 + moved / connector.bytes_per_s
            await asyncio.sleep(taken_s / self._speed)
        finally:
            self.under_way -= 1
        self.seconds.observe(time.monotonic() - begin_s)
        self.post_seconds.observe(POST_S / self._speed)
        self.bytes.observe(moved)
        self.descriptors.observe(blocks)
        self.tokens += request.prompt_tokens
