"""The whole way: a simulated vLLM tells its steps, and a gateway's step fit takes them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.config.gateway import GatewayConfig, SecretConfig
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests import serving
from tests.serving import METADATA, chat_request, read_stream, until

KEY = "of-the-engine"
SLOWER = QWEN3_30B_H100.scaled(base=3.0, experts=3.0, sequences=3.0)


def settings(url: str, *, engine_feed: bool) -> GatewayConfig:
    pool = msgspec.structs.replace(
        serving.pool([url], max_num_seqs=32),
        api_key=SecretConfig(env="ENGINE_KEY_OF_TESTS"),
        engine_feed=engine_feed,
    )
    return serving.config(pools=[pool])


@pytest.mark.parametrize("engine_feed", [True, False])
async def test_a_gateway_fits_single_steps(
    engine_feed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY_OF_TESTS", KEY)
    simulated = SimulatedVllmConfig(
        served_model_name=serving.MODEL, api_key=KEY, step_model=SLOWER, noise_sigma=0.1
    )
    async with (
        simulated_vllm(simulated) as server,
        serving.serving(settings(server.url, engine_feed=engine_feed)) as gateway,
    ):
        [group] = gateway.gateway.scheduler.core._model_states[serving.MODEL].fleet.groups
        for concurrency in (1, 4):
            request = chat_request("Hello", max_output_tokens=60, ignore_eos=True)
            streams = (
                read_stream(gateway.stub.Generate(request, metadata=METADATA))
                for _ in range(concurrency)
            )
            await asyncio.gather(*streams)
        if not engine_feed:
            assert not group.has_steps(asyncio.get_running_loop().time())
            return
        clock = asyncio.get_running_loop().time
        await until(lambda: group.has_steps(clock()) and group.fit.state.windows >= 6)
        for batch in (1, 4):
            truth_s = SLOWER.decode_step_s(batch, 500 * batch)
            fitted_s = group.fit.model.decode_step_s(batch, 500 * batch)
            assert fitted_s == pytest.approx(truth_s, rel=0.25)
