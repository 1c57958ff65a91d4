"""A prefill and a decode engine behind a proxy, as one replica: found, predicted and metered."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import msgspec
import pytest

from gateway.config.engines import DisaggregatedNodesConfig, EnginesConfig
from gateway.config.gateway import GatewayConfig, GpuConfig, PoolConfig
from moegate.simulated_vllm.config import SimulatedVllmConfig
from moegate.simulated_vllm.connector.transfers import KvConnector
from moegate.simulated_vllm.pair.proxy import SimulatedPair, simulated_pair
from moegate.v1 import generation_pb2, inference_pb2
from scheduler.metering.meter import PoolCost
from scheduler.metering.settlement import SettledAttempt
from scheduler.metering.totals import SECOND_NS
from scheduler.step_time.kv_transfer import NO_TRANSFER
from tests import serving
from tests.integration.doors.test_gateway import UPSTREAM
from tests.serving import METADATA, Serving, chat_request, first_message, read_stream, until

PROMPT = "a long prompt that takes its time, " * 400
DECODE_BLOCKS = 5000


@contextlib.asynccontextmanager
async def pair(speed: float = 1.0) -> AsyncIterator[SimulatedPair]:
    config = SimulatedVllmConfig(
        served_model_name=UPSTREAM, speed=speed, enable_prompt_tokens_details=True
    )
    decode = replace(config, num_gpu_blocks=DECODE_BLOCKS)
    async with simulated_pair(config, decode) as running:
        yield running


def pool(running: SimulatedPair) -> PoolConfig:
    base = serving.pool([running.url], upstream_model=UPSTREAM, max_num_seqs=64)
    engines = EnginesConfig(prefill=(running.prefill.url,), decode=(running.decode.url,))
    return msgspec.structs.replace(
        base,
        replicas=(msgspec.structs.replace(base.replicas[0], engines=engines),),
        gpu=GpuConfig(type="H100", count=4, usd_per_gpu_hour="2.50"),
        disaggregated=DisaggregatedNodesConfig(prefill=1, decode=3),
    )


def settings(running: SimulatedPair) -> GatewayConfig:
    return serving.config(pools=[pool(running)], interactive=serving.PATIENT)


def cost_of(gateway: Serving) -> PoolCost:
    metering = gateway.gateway.scheduler._metering
    metering.meter.tick(metering.now_ns)
    cost = metering.meter.cost("own", 3600 * SECOND_NS, metering.now_ns)
    assert cost is not None
    return cost


def endless(name: str) -> generation_pb2.GenerateRequest:
    return chat_request(f"{name} {PROMPT}", ignore_eos=True, max_output_tokens=4000)


async def test_a_pair_behind_a_proxy_serves_as_one_replica() -> None:
    async with pair(speed=50.0) as running, serving.serving(settings(running)) as gateway:
        [state] = gateway.gateway.scheduler.core.placements
        assert state.facts.name == "own/a"
        assert state.facts.prefill_price_share == 0.25
        assert state.kv_capacity_tokens == DECODE_BLOCKS * 16, "the KV cache that decodes"
        assert state.context_tokens == running.decode.config.max_model_len
        call = gateway.stub.Generate(chat_request(PROMPT, ignore_eos=True), metadata=METADATA)
        done = (await read_stream(call)).done
        assert done is not None
        assert done.usage.completion_tokens == 16
        assert not done.usage.HasField("cached_tokens"), "what came over the wire was computed"
        counted = await gateway.stub.CountTokens(
            inference_pb2.CountTokensRequest(request=chat_request(PROMPT)), metadata=METADATA
        )
        assert counted.exact, "the proxy knows no /tokenize, the engine does"
        assert done.usage.prompt_tokens == counted.prompt_tokens
        ranks = [sim.engine.ranks[0].counters for sim in (running.prefill, running.decode)]
        computed = [rank.prompt_tokens - rank.prompt_tokens_cached for rank in ranks]
        assert computed[0] >= counted.prompt_tokens
        assert computed[1] < 10, "the engine that decodes computes the last token of each prompt"


async def test_load_of_both_engines_is_the_replicas_and_counted_once() -> None:
    async with pair() as running, serving.serving(settings(running)) as gateway:
        [state] = gateway.gateway.scheduler.core.placements
        calls = [gateway.stub.Generate(endless(f"r{i}"), metadata=METADATA) for i in range(4)]
        for call in calls:
            await first_message(call)

        def told() -> tuple[int | None, int | None]:
            report = state.report
            prefills = None if report is None else report.prefills
            running_now = None if report is None else report.running
            return running_now, None if prefills is None else prefills.first_tokens

        await until(lambda: told() == (4, 4 + 1))  # one prefill was the probe's
        assert state.external_sequences == 0
        for call in calls:
            call.cancel()
        await until(lambda: not running.decode.engine.has_work)


async def test_steps_are_fitted_on_the_decodes_and_prefills_on_their_own_engine() -> None:
    """The decode engine's step time is that of its batch alone, whatever prompts are computed."""
    async with pair() as running, serving.serving(settings(running)) as gateway:
        core = gateway.gateway.scheduler.core
        fleet = core._model_states["moe"].fleet
        group = fleet.groups[0]
        calls = [gateway.stub.Generate(endless(f"r{i}"), metadata=METADATA) for i in range(6)]
        for call in calls:
            await first_message(call)
        more = 0

        async def prompts() -> None:
            nonlocal more
            while True:
                more += 1
                asked = chat_request(f"{more} {PROMPT}", max_output_tokens=1)
                await read_stream(gateway.stub.Generate(asked, metadata=METADATA))

        task = asyncio.create_task(prompts())
        try:
            await until(lambda: group.fit.state.windows >= 10 and more > 5)
        finally:
            task.cancel()
            for call in calls:
                call.cancel()
        truth = running.decode.config.step_model
        assert group.fit.model.decode_step_s(6, 0) == pytest.approx(
            truth.decode_step_s(6, 0), rel=0.25
        )
        assert group.fit.model.prefill_time_s(4000, 4000) == pytest.approx(
            truth.prefill_time_s(4000, 4000), rel=0.5
        )


async def test_a_prefill_is_expected_to_stall_no_stream_of_the_pair() -> None:
    async with pair() as running, serving.serving(settings(running)) as gateway:
        calls = [gateway.stub.Generate(endless(f"r{i}"), metadata=METADATA) for i in range(3)]
        for call in calls:
            await first_message(call)
        core = gateway.gateway.scheduler.core
        asked = chat_request("new " + PROMPT * 4, max_output_tokens=1, request_id="new")
        await read_stream(gateway.stub.Generate(asked, metadata=METADATA))
        decision = core.decisions.get("test/new")
        assert decision is not None
        [candidate] = decision.candidates()
        assert candidate.violations_expected == 0.0
        model = running.prefill.config.step_model
        assert candidate.ttft_s is not None
        assert candidate.ttft_s > model.prefill_time_s(10_000, 10_000) / 2
        for call in calls:
            call.cancel()


async def test_the_bill_is_that_of_both_engines_and_its_parts_are_paid_by_node() -> None:
    settled: list[SettledAttempt] = []
    async with (
        pair() as running,
        serving.serving(settings(running), sinks=(settled.append,)) as gateway,
    ):
        for i in range(3):
            asked = chat_request(f"{i} {PROMPT}", ignore_eos=True, max_output_tokens=60)
            assert (await read_stream(gateway.stub.Generate(asked, metadata=METADATA))).done
        cost = cost_of(gateway)
        # Four GPUs at $2.50, of every second.
        assert cost.bill == pytest.approx(cost.covered_ns * 10_000_000_000 / 3600e9, rel=1e-6)
        assert sum(cost.accounts.values()) == cost.bill
        for attempt in settled:
            tokens = {part.kind.value: part.nano_usd for part in attempt.parts}
            assert tokens["output"] > 0
            assert tokens["uncached_input"] > 0
        metered = sum(attempt.metered_nano_usd or 0 for attempt in settled)
        busy_s = sum(a.ended_unix_s - a.started_unix_s for a in settled)
        # One request at a time keeps the nodes of one stage busy: never all of them.
        assert 0.2 * busy_s * 10e9 / 3600 < metered < 0.8 * busy_s * 10e9 / 3600


async def test_the_transfer_of_kv_caches_is_learnt_and_in_the_promise() -> None:
    """As vLLM's connector counts it on the engine that decodes. A slow network, so that it is seen
    beside all else."""
    slow = KvConnector(transfer_ms=500.0, bytes_per_s=1e9)
    config = SimulatedVllmConfig(served_model_name=UPSTREAM, speed=10.0, kv_connector=slow)
    async with (
        simulated_pair(config, config) as running,
        serving.serving(settings(running)) as gateway,
    ):
        fleet = gateway.gateway.scheduler.core._model_states["moe"].fleet
        [group] = {id(each): each for each in fleet.groups}.values()
        sent = 0

        async def ask(times: int) -> None:
            nonlocal sent
            sent += 1
            asked = chat_request(f"{sent} {PROMPT * times}", max_output_tokens=2)
            await read_stream(gateway.stub.Generate(asked, metadata=METADATA))

        async with asyncio.timeout(60):
            while group.fit.model.transfer == NO_TRANSFER or sent < 6:
                await ask(1 + sent % 3)
        truth = running.decode.transfers
        tokens = truth.tokens // truth.seconds.count
        mean_s = truth.seconds.total / truth.seconds.count
        learnt = group.fit.model.transfer
        assert learnt.seconds(tokens) == pytest.approx(mean_s, rel=0.3)
        assert running.prefill.transfers.seconds.count == 0
        await until(lambda: fleet.transfer_s[:, 0].tolist() == list(learnt.row))
        asked = chat_request("last " + PROMPT, max_output_tokens=1, request_id="last")
        await read_stream(gateway.stub.Generate(asked, metadata=METADATA))
        decision = gateway.gateway.scheduler.core.decisions.get("test/last")
        assert decision is not None
        [candidate] = decision.candidates()
        assert candidate.ttft_s is not None
        model = group.fit.model
        prompt = candidate.ttft_s - model.prefill_time_s(4000, 4000)
        assert prompt > 0.5 * learnt.seconds(4000)


async def test_a_pair_names_its_metrics_as_the_real_one() -> None:
    golden = Path(__file__).parents[2] / "golden/vllm_0_32"
    async with pair(speed=50.0) as running, serving.serving(settings(running)) as gateway:
        call = gateway.stub.Generate(chat_request(PROMPT), metadata=METADATA)
        assert (await read_stream(call)).done
        async with aiohttp.ClientSession() as session:
            for url, name in ((running.prefill.url, "prefill"), (running.decode.url, "decode")):
                async with session.get(f"{url}/metrics") as response:
                    page = await response.text()
                real = (golden / f"metrics_pair_{name}.txt").read_text()
                heads = {line for line in page.splitlines() if line.startswith("#")}
                assert heads <= set(real.splitlines())
                ours, theirs = (
                    {
                        re.sub(r'model_name="[^"]*"', "", line.rpartition(" ")[0])
                        for line in text.splitlines()
                        if line.startswith("vllm:nixl_") or "_by_source_total" in line
                    }
                    for text in (page, real)
                )
                of_cache = {line for line in theirs if "prompt_tokens_cached_by_source" in line}
                assert ours == theirs - of_cache


async def test_a_pair_without_one_of_its_engines_is_out_of_service() -> None:
    config = SimulatedVllmConfig(served_model_name=UPSTREAM, speed=50.0)
    async with simulated_pair(config, config) as running:
        base = pool(running)
        lost = EnginesConfig(prefill=("http://127.0.0.1:9",), decode=(running.decode.url,))
        replicas = (msgspec.structs.replace(base.replicas[0], engines=lost),)
        config_of = serving.config(pools=[msgspec.structs.replace(base, replicas=replicas)])
        async with serving.serving(config_of, ready=False) as gateway:
            [state] = gateway.gateway.scheduler.core.placements
            await until(lambda: state.reason != "not probed yet")
            assert not state.serving
            assert "connect" in state.reason
