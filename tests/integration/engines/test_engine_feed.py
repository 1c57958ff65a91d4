"""The whole way: a simulated vLLM tells its steps, and a gateway's step fit takes them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.config.gateway import GatewayConfig, SecretConfig
from moegate.simulated_vllm.faults.flags import parse_faults
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.v1 import batch_pb2, batch_pb2_grpc
from moegate.vllm_plugin.feed import Signature
from scheduler.provenance import Provenance
from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.engine.physics import ExpertLoad, Physics
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


@pytest.mark.parametrize("count_experts", [True, False])
async def test_a_gateway_predicts_the_experts_that_it_saw(
    count_experts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY_OF_TESTS", KEY)
    load = ExpertLoad(zipf_exponent=1.0, expert_ranks=8, eplb=False)
    truth = Physics(QWEN3_30B_H100, load)
    simulated = SimulatedVllmConfig(
        served_model_name=serving.MODEL,
        api_key=KEY,
        speed=4.0,
        expert_load=load,
        count_experts=count_experts,
    )
    async with (
        simulated_vllm(simulated) as server,
        serving.serving(settings(server.url, engine_feed=True)) as gateway,
    ):
        core = gateway.gateway.scheduler.core
        [group] = core._model_states[serving.MODEL].fleet.groups
        for concurrency in (2, 5, 10):
            request = chat_request("Hello", max_output_tokens=40, ignore_eos=True)
            streams = (
                read_stream(gateway.stub.Generate(request, metadata=METADATA))
                for _ in range(concurrency)
            )
            await asyncio.gather(*streams)
        clock = asyncio.get_running_loop().time
        await until(lambda: group.has_steps(clock()) and group.fit.state.windows >= 6)
        if count_experts:  # the law is fitted before the last steps are read, and then again
            touched = pytest.approx(truth.touched_experts(10), rel=0.03)
            await until(lambda: group.fit.model.law is not None)
            await until(lambda: group.fit.model.distinct_experts(10) == touched)
        [shown] = core.snapshot(clock()).placements
        uniform = QWEN3_30B_H100.distinct_experts(10)
        predicted = group.fit.model.distinct_experts(10)
    assert truth.touched_experts(10) < 0.85 * uniform
    if not count_experts:
        assert predicted == pytest.approx(uniform)
        assert shown.distinct_experts_source is Provenance.ASSUMED
        assert (shown.expert_imbalance, shown.busiest_expert_rank) == (None, None)
        return
    assert predicted == touched
    assert shown.distinct_experts_source is Provenance.DERIVED
    choices = truth.rank_choices(8)
    assert shown.busiest_expert_rank == choices.index(max(choices))
    assert shown.expert_imbalance == pytest.approx(max(choices) * 8 / sum(choices), rel=0.01)


@pytest.mark.parametrize("told", [True, False])
async def test_a_request_alone_costs_the_seconds_of_the_engine(
    told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delay before the engine sees a request stands for networks and HTTP servers. The accounts
    sum to the bill in either case."""
    monkeypatch.setenv("ENGINE_KEY_OF_TESTS", KEY)
    delay_s = 1.0
    simulated = SimulatedVllmConfig(
        served_model_name=serving.MODEL,
        api_key=KEY,
        enable_per_request_metrics=told,
        faults=parse_faults([f"delay:seconds={delay_s}"]),
    )
    async with (
        simulated_vllm(simulated) as server,
        serving.serving(settings(server.url, engine_feed=False)) as gateway,
    ):
        request = chat_request("Hello", max_output_tokens=60, ignore_eos=True)
        done = (await read_stream(gateway.stub.Generate(request, metadata=METADATA))).done
        assert done is not None
        [attempt] = done.route.attempts
        whole_s = attempt.duration.ToNanoseconds() / 1e9
        metered_s = done.cost.metered_nano_usd * 3600 / 2.5e9
        assert whole_s > delay_s
        if told:
            assert metered_s < whole_s - 0.9 * delay_s
            assert metered_s > 60 * QWEN3_30B_H100.base_s
        else:
            assert metered_s == pytest.approx(whole_s, rel=0.05)


async def test_the_lane_learns_the_experts_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY_OF_TESTS", KEY)
    simulated = SimulatedVllmConfig(
        served_model_name=serving.MODEL, api_key=KEY, speed=20.0, count_experts=True
    )
    async with (
        simulated_vllm(simulated) as server,
        serving.serving(settings(server.url, engine_feed=True)) as gateway,
    ):
        learnt = gateway.gateway.lane.experts
        feed = server.recorder.feed

        def told(name: str) -> None:
            experts = [[1, 2], [3]]
            feed.add(Signature(engine=0, id=f"chatcmpl-{name}", tokens=9, experts=experts))

        told("of a person")
        await until(lambda: learnt.is_told)
        stub = batch_pb2_grpc.BatchServiceStub(gateway.channel)
        messages = [
            batch_pb2.SubmitBatchRequest(
                item_id=name, request=chat_request(name, max_output_tokens=4)
            )
            for name in "ab"
        ]
        submitted = await stub.SubmitBatch(iter(messages), metadata=METADATA)
        batch_id = submitted.batch.batch_id
        asked = batch_pb2.StreamBatchResultsRequest(batch_id=batch_id)
        assert len([each async for each in stub.StreamBatchResults(asked, metadata=METADATA)]) == 2
        for number in (1, 2):
            told(f"{batch_id}-{number}")
        await until(lambda: learnt.observed("team", serving.MODEL) == 2)
