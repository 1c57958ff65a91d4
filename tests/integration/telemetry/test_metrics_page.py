"""The Prometheus page of a gateway that has served requests."""

from __future__ import annotations

import asyncio

import aiohttp
import grpc
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.samples import Sample

from gateway.config.ledger import BudgetConfig
from gateway.config.telemetry import TelemetryConfig
from gateway.telemetry import semconv
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.v1 import inference_pb2
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.otlp_receiver import receiver
from tests.scripted import DONE, GOOD, ROLE, Scripted, upstreams, word
from tests.serving import METADATA, Serving, chat_request, read_stream

ON = TelemetryConfig(metrics_listen="127.0.0.1:0")
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


async def page(gateway: Serving, accept: dict[str, str] | None = None) -> str:
    url = f"http://{gateway.gateway.metrics_address}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url, headers=accept) as response:
        assert response.status == 200
        return await response.text()


async def samples(gateway: Serving) -> list[Sample]:
    return [sample for family in plain(await page(gateway)) for sample in family.samples]


def value(found: list[Sample], name: str, **labels: str) -> float:
    [sample] = [s for s in found if s.name == name and labels.items() <= s.labels.items()]
    return float(sample.value)


async def test_every_metric_of_the_fleet_is_there_from_the_start() -> None:
    async with upstreams(Scripted(frames=GOOD), telemetry=ON) as gateway:
        found = {sample.name for sample in await samples(gateway)}
        families = {family.name for family in plain(await page(gateway))}
    unknown = {  # what is not known, or not configured, has no sample
        *(semconv.ENGINE_WAITING, semconv.KV_CAPACITY, semconv.REPORT_AGE, semconv.OUTPUT_RATE),
        *(semconv.BUDGET_CAP, semconv.BUDGET_LEFT, semconv.EXPERT_IMBALANCE),
        *(semconv.BATCH_JOBS, semconv.BATCH_ITEMS),
    }
    for metric in semconv.FLEET_GAUGES:
        assert metric.prometheus in families
        assert metric.prometheus in found or metric in unknown, metric.name
    assert "moegate_log_dropped_total" in found


async def test_a_request_is_measured_on_both_sides() -> None:
    broken, good = Scripted(status=503), Scripted(frames=GOOD)
    async with upstreams(broken, good, telemetry=ON) as gateway:
        await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        await gateway.stub.GenerateOnce(
            inference_pb2.GenerateOnceRequest(request=chat_request()), metadata=METADATA
        )
        found = await samples(gateway)
    server = {"gen_ai_request_model": serving.MODEL, "moegate_slo_class": "interactive"}
    duration = "gen_ai_server_request_duration_seconds_count"
    assert value(found, duration, moegate_outcome="ok", **server) == 2
    assert value(found, "gen_ai_server_time_to_first_token_seconds_count", **server) == 2
    assert value(found, "gen_ai_server_time_per_output_token_seconds_count", **server) == 2
    assert value(found, "moegate_queue_duration_seconds_count", **server) >= 2
    attempts = "gen_ai_client_operation_duration_seconds_count"
    assert value(found, attempts, moegate_outcome="ok", moegate_pool="own") == 2
    assert value(found, attempts, moegate_outcome="retryable", error_type="retryable") >= 1
    # What OpenTelemetry asks of every metric of GenAI; a label without a value is no label.
    families = {"gen_ai_server_", "gen_ai_client_"}
    for sample in (s for s in found if any(s.name.startswith(name) for name in families)):
        assert sample.labels["gen_ai_operation_name"] == "chat", sample
        assert sample.labels["gen_ai_provider_name"] in ("moegate", "vllm"), sample
    assert value(found, duration, moegate_outcome="ok", error_type="", **server) == 2
    met = {"moegate_slo_class": "interactive", "gen_ai_request_model": serving.MODEL}
    counted = [
        value(found, "moegate_slo_requests_total", moegate_slo_met=each, **met)
        for each in ("true", "false")
    ]
    assert sum(counted) == 2
    usage = "gen_ai_client_token_usage_sum"
    assert value(found, usage, gen_ai_token_type="input") == 10
    assert value(found, usage, gen_ai_token_type="output") == 4
    assert value(found, "moegate_prompt_tokens_total", moegate_cache="unknown") == 10
    assert value(found, "moegate_prediction_ttft_ratio_count", moegate_pool="own") == 2
    assert value(found, "moegate_prediction_tpot_ratio_count", moegate_pool="own") == 2
    rpc = "rpc_server_call_duration_seconds_count"
    for method in ("Generate", "GenerateOnce"):
        labels = {"rpc_method": f"moegate.v1.InferenceService/{method}", "rpc_status_code": "OK"}
        assert value(found, rpc, **labels) == 1
    assert value(found, "moegate_requests_in_flight") == 0


async def test_a_request_that_fails_has_missed_its_objective_and_one_that_is_left_has_not() -> None:
    broken = Scripted(status=503)
    async with upstreams(broken, telemetry=ON) as gateway:
        with pytest.raises(grpc.aio.AioRpcError):
            await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        left = gateway.stub.Generate(chat_request(), metadata=METADATA)
        left.cancel()
        found = await samples(gateway)
    for met, count in (("false", 1), ("true", 0)):
        assert value(found, "moegate_slo_requests_total", moegate_slo_met=met) == count


async def test_answers_that_do_not_keep_to_their_protocol_are_counted() -> None:
    usage = (
        b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1099511627776}}\n\n'
    )
    odd = Scripted(frames=[ROLE, word(1), word(2, b'"flux"'), usage, DONE])
    async with upstreams(odd, telemetry=ON) as gateway:
        for _ in range(2):
            await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        found = await samples(gateway)
    for kind in ("finish_word", "usage_too_many_output"):
        labels = {"moegate_placement": "own/a", "moegate_deviation": kind}
        assert value(found, "moegate_upstream_deviations_total", **labels) == 2


async def test_a_bucket_leads_to_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver() as otlp:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with upstreams(Scripted(frames=GOOD), telemetry=ON) as gateway:
            await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
            text = await page(gateway, OPENMETRICS)
            await otlp.until("moegate.v1.InferenceService/Generate")
    assert text.endswith("# EOF\n")
    found = {
        sample.name: sample.exemplar.labels["trace_id"]
        for family in openmetrics(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    }
    [trace_id] = {span.trace_id for span in otlp.spans}
    assert set(found.values()) == {trace_id}
    assert "gen_ai_server_time_to_first_token_seconds_bucket" in found


async def test_without_the_field_there_is_no_page() -> None:
    async with upstreams(Scripted(frames=GOOD)) as gateway:
        assert gateway.gateway.metrics_address is None
        assert not gateway.gateway.telemetry.is_on


async def test_a_taken_port_is_told_with_its_field() -> None:
    async with upstreams(Scripted(frames=GOOD), telemetry=ON) as gateway:
        taken = gateway.gateway.metrics_address
        with pytest.raises(OSError, match=r"telemetry\.metrics_listen: cannot listen on"):
            async with upstreams(
                Scripted(frames=GOOD), telemetry=TelemetryConfig(metrics_listen=taken)
            ):
                pass


async def test_a_page_on_every_address_is_for_ipv4_and_ipv6() -> None:
    both = TelemetryConfig(metrics_listen="[::]:0")
    async with upstreams(Scripted(frames=GOOD), telemetry=both) as gateway:
        host, _, port = str(gateway.gateway.metrics_address).rpartition(":")
        assert host == "[::]"
        async with aiohttp.ClientSession() as session:
            for address in ("127.0.0.1", "[::1]"):
                async with session.get(f"http://{address}:{port}/metrics") as response:
                    assert "moegate_log_dropped_total" in await response.text()


async def test_a_budget_shows_what_is_left_of_it() -> None:
    engine = SimulatedVllmConfig(served_model_name="m", speed=100.0)
    async with simulated_vllm(engine) as own:
        settings = msgspec.structs.replace(
            serving.config(pools=[serving.pool([own.url], upstream_model="m")], telemetry=ON),
            budgets=(BudgetConfig(tenant="team", period=Period.DAY, cap_usd="5"),),
        )
        async with serving.serving(settings) as gateway:
            async with asyncio.timeout(serving.READY_S):
                while not any(s.name == "moegate_budget_left" for s in await samples(gateway)):
                    await asyncio.sleep(0.05)
            found = await samples(gateway)
    labels = {"moegate_tenant": "team", "moegate_key_id": "", "moegate_budget_period": "day"}
    assert value(found, "moegate_budget_cap_usd", **labels) == 5.0
    assert value(found, "moegate_budget_left", **labels) == 1.0
