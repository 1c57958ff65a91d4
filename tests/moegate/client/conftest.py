"""A gateway before a simulated vLLM, for the clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.config.gateway import KeyConfig
from gateway.config.limits import KeyLimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from tests import serving
from tests.serving import MODEL, Serving

POOR_KEY = "mg-poor-key"
"""A key for one request per minute."""


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedVllm]:
    async with simulated_vllm(SimulatedVllmConfig(served_model_name=MODEL, speed=20.0)) as running:
        yield running


@pytest.fixture
async def gateway(engine: SimulatedVllm) -> AsyncIterator[Serving]:
    poor = KeyConfig(
        id="poor",
        sha256=key_sha256(POOR_KEY),
        limits=KeyLimitsConfig(requests_per_minute=1),
    )
    settings = serving.config(
        pools=[serving.pool([engine.url])], keys=[poor], interactive=serving.PATIENT
    )
    async with serving.serving(settings) as running:
        yield running
