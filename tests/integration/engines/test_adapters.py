"""LoRA adapters behind a gateway: simulated vLLM servers load and unload them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import grpc
import msgspec
import pytest

from gateway.config.engines import AdapterConfig, AdaptersConfig
from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole, PoolConfig
from gateway.config.prices import PricesConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.fleet import probes
from moegate.simulated_vllm.server import SimulatedVllm
from moegate.v1 import inference_pb2, usage_pb2, usage_pb2_grpc
from scheduler.metering.settlement import SettledAttempt
from scheduler.metering.totals import SECOND_NS
from tests import serving
from tests.http_serving import serving_http
from tests.integration.doors.test_gateway import UPSTREAM, engine, failure
from tests.serving import METADATA, Serving, chat_request, first_message, read_stream, until

OPERATOR = (("authorization", "Bearer mg-operator-key"),)
LIMITED = (("authorization", "Bearer mg-limited-key"),)
KEYS = (
    KeyConfig(id="boss", sha256=key_sha256("mg-operator-key"), role=KeyRole.OPERATOR),
    KeyConfig(id="limited", sha256=key_sha256("mg-limited-key"), models=("sql",)),
)
SQL = AdapterConfig(model="sql", upstream_model="sql-v3")
PROMPT = "the same long prompt of both, " * 100


@pytest.fixture(autouse=True)
def _short_relist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "RELIST_S", 0.05)


def pool(*sims: SimulatedVllm, adapters: AdaptersConfig, **fields: object) -> PoolConfig:
    base = serving.pool([sim.url for sim in sims], upstream_model=UPSTREAM)
    return msgspec.structs.replace(base, adapters=adapters, **fields)


def settings(*pools: PoolConfig) -> GatewayConfig:
    return serving.config(pools=pools, keys=KEYS, interactive=serving.PATIENT)


def lora(*names: str, **fields: object) -> dict[str, object]:
    modules = tuple((name, f"/adapters/{name}") for name in names)
    return {"enable_lora": True, "lora_modules": modules, "max_loras": 2, **fields}


async def models(gateway: Serving, metadata: tuple[tuple[str, str], ...] = METADATA) -> list[str]:
    found = await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=metadata)
    return [
        f"{m.name} of {m.adapter_of or '-'}: {m.local_replicas_serving}/{m.local_replicas}"
        for m in found.models
    ]


def placements(gateway: Serving) -> dict[str, list[str]]:
    states = gateway.gateway.scheduler.core.placements
    return {state.facts.name: sorted(state.adapters.loaded) for state in states}


async def test_requests_for_an_adapter_run_where_it_is_loaded_under_its_own_name() -> None:
    settled: list[SettledAttempt] = []
    async with engine(**lora("sql-v3")) as a, engine(**lora("other")) as b:
        config = settings(pool(a, b, adapters=AdaptersConfig(models=(SQL,))))
        async with serving.serving(config, sinks=(settled.append,)) as gateway:
            assert placements(gateway) == {"own/a": ["sql"], "own/b": []}
            assert await models(gateway) == ["moe of -: 2/2", "sql of moe: 1/2"]
            assert await models(gateway, LIMITED) == ["sql of moe: 1/2"]
            for _ in range(4):
                call = gateway.stub.Generate(chat_request(model="sql"), metadata=LIMITED)
                done = (await read_stream(call)).done
                assert done is not None
                assert done.model == "sql-v3", "the server's own name of it"
                assert done.route.replica == "a"
            for name in ("other", "sql-v3"):
                error = await failure(gateway, chat_request(model=name))
                assert error.code() is grpc.StatusCode.NOT_FOUND, "neither is offered"
            refused = await failure(gateway, chat_request(), LIMITED)
            assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
    assert {attempt.model for attempt in settled} == {"sql"}
    assert all(attempt.metered_nano_usd for attempt in settled), "on the one engine's bill"


async def test_an_adapter_that_is_loaded_at_run_time_is_discovered_and_leaves_again() -> None:
    async with engine(**lora()) as a, aiohttp.ClientSession() as http:
        config = settings(pool(a, adapters=AdaptersConfig(discover=True)))
        async with serving.serving(config) as gateway:
            assert await models(gateway) == ["moe of -: 1/1"]
            body = {"lora_name": "new", "lora_path": "/adapters/new"}
            async with http.post(f"{a.url}/v1/load_lora_adapter", json=body) as answer:
                assert answer.status == 200
            await until(lambda: placements(gateway) == {"own/a": ["new"]})
            assert await models(gateway) == ["moe of -: 1/1", "new of moe: 1/1"]
            call = gateway.stub.Generate(chat_request(model="new"), metadata=METADATA)
            assert (await read_stream(call)).done is not None
            async with http.post(f"{a.url}/v1/unload_lora_adapter", json=body) as answer:
                assert answer.status == 200
            await until(lambda: placements(gateway) == {"own/a": []})
            error = await failure(gateway, chat_request(model="new"))
            assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_request_that_meets_an_unloaded_adapter_is_tried_elsewhere_without_blame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "RELIST_S", 3600.0)
    async with engine(**lora("sql-v3")) as a, engine(**lora("sql-v3")) as b:
        config = settings(pool(a, b, adapters=AdaptersConfig(models=(SQL,))))
        async with serving.serving(config) as gateway:
            del a.adapters.paths["sql-v3"]
            for _ in range(3):
                call = gateway.stub.Generate(chat_request(model="sql"), metadata=METADATA)
                done = (await read_stream(call)).done
                assert done is not None
                assert done.route.replica == "b"
            # The first one that met it had the adapters read at once.
            await until(lambda: placements(gateway) == {"own/a": [], "own/b": ["sql"]})
            scheduler = gateway.gateway.scheduler.core
            assert all(state.serving for state in scheduler.placements)
            assert [state.error_share for state in scheduler.placements] == [0.0, 0.0]
            del b.adapters.paths["sql-v3"]
            error = await failure(gateway, chat_request(model="sql"))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            call = gateway.stub.Generate(chat_request(), metadata=METADATA)
            assert (await read_stream(call)).done is not None, "the model itself goes on"


async def test_adapters_share_no_cached_prefix() -> None:
    async with engine(**lora("x", "y")) as a:
        config = settings(pool(a, adapters=AdaptersConfig(discover=True), share_prefix_cache=True))
        async with serving.serving(config) as gateway:
            cached = {}
            for name, model in (
                *(("x1", "x"), ("y1", "y"), ("m1", "moe")),
                *(("x2", "x"), ("y2", "y"), ("m2", "moe")),
            ):
                asked = chat_request(PROMPT, model=model)
                quote = await gateway.stub.Quote(
                    inference_pb2.QuoteRequest(request=asked), metadata=METADATA
                )
                done = (await read_stream(gateway.stub.Generate(asked, metadata=METADATA))).done
                assert done is not None
                expected = quote.candidates[0].expected_cached_tokens
                cached[name] = done.usage.cached_tokens, expected
    assert {name for name, counts in cached.items() if counts[0]} == {"x2", "y2", "m2"}
    for name in ("x1", "y1", "m1"):
        assert cached[name] == (0, 0), "neither the engine nor the prediction mixes them up"


async def test_a_further_adapter_waits_in_the_gateway_while_the_engine_has_no_slot() -> None:
    async with engine(**lora("x", "y", max_loras=1, speed=1.0)) as a:
        config = settings(pool(a, adapters=AdaptersConfig(discover=True)))
        async with serving.serving(config) as gateway:
            long = chat_request(model="x", ignore_eos=True, max_output_tokens=4000)
            first = gateway.stub.Generate(long, metadata=METADATA)
            await first_message(first)
            state = gateway.gateway.scheduler.core.placements[0]
            await until(lambda: not state.adapters.has_slot("y", external=False))
            other = gateway.stub.Generate(chat_request(model="y"), metadata=METADATA)
            await until(lambda: gateway.gateway.scheduler.core.queued_requests == 1)
            base = gateway.stub.Generate(chat_request(), metadata=METADATA)
            assert (await read_stream(base)).done is not None, "the model needs no slot"
            assert a.engine.waiting == 0
            told = await fleet(gateway)
            adapters = {s.name: s.active for s in told.placements[0].adapters}
            assert adapters == {"x": True, "y": False}
            first.cancel()
            assert (await read_stream(other)).done is not None


async def fleet(gateway: Serving) -> usage_pb2.WatchFleetResponse:
    stub: usage_pb2_grpc.UsageServiceAsyncStub = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    async for told in stub.WatchFleet(usage_pb2.WatchFleetRequest(), metadata=OPERATOR):
        return told
    raise AssertionError("the stream ended")


CATALOG = """
showback:
  - id: base
    pool: own
    usd_per_mtok: {input: "1", cached_input: "1", output: "1"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
  - id: sql
    pool: own
    adapter: sql
    usd_per_mtok: {input: "3", cached_input: "3", output: "3"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""


async def test_an_adapter_is_charged_by_its_own_row_and_the_bill_stays_that_of_the_engine(
    tmp_path: Path,
) -> None:
    (tmp_path / "prices.yaml").write_text(CATALOG)
    settled: list[SettledAttempt] = []
    async with engine(**lora("sql-v3", "plain")) as a:
        adapters = AdaptersConfig(models=(SQL, AdapterConfig(model="plain")))
        config = settings(pool(a, adapters=adapters))
        config = msgspec.structs.replace(config, prices=PricesConfig(catalog="prices.yaml"))
        async with serving.serving_in(tmp_path, config, sinks=(settled.append,)) as gateway:
            for model in ("moe", "sql", "plain"):
                quote = await gateway.stub.Quote(
                    inference_pb2.QuoteRequest(request=chat_request(model=model)),
                    metadata=METADATA,
                )
                assert quote.candidates[0].charged_nano_usd > 0
                call = gateway.stub.Generate(
                    chat_request(model=model, ignore_eos=True, max_cost_nano_usd=10**9),
                    metadata=METADATA,
                )
                assert (await read_stream(call)).done is not None
            await asyncio.sleep(0)
            metering = gateway.gateway.scheduler._metering
            cost = metering.meter.cost("own", 3600 * SECOND_NS, metering.now_ns)
            assert cost is not None
    assert [attempt.price_row_id for attempt in settled] == ["base", "sql", "base"]
    tokens = [a.usage.prompt_tokens + a.usage.completion_tokens for a in settled if a.usage]
    rates = (1_000, 3_000, 1_000)
    charged = [attempt.charged_nano_usd or 0 for attempt in settled]
    assert charged == [count * rate for count, rate in zip(tokens, rates, strict=True)]
    metered = sum(attempt.metered_nano_usd or 0 for attempt in settled)
    assert metered == sum(part.nano_usd for attempt in settled for part in attempt.parts)
    assert 0 < metered <= cost.bill
    assert cost.charged == sum(charged)


async def test_the_http_doors_list_and_run_adapters() -> None:
    async with engine(**lora("sql-v3", "other")) as a:
        config = settings(pool(a, adapters=AdaptersConfig(models=(SQL,), discover=True)))
        async with serving_http(config) as gateway:
            async with gateway.session.get(f"{gateway.url}/v1/models") as answer:
                listed = (await answer.json())["data"]
            assert [(model["id"], model.get("parent")) for model in listed] == [
                ("moe", None),
                ("other", "moe"),
                ("sql", "moe"),
            ]
            length = a.config.max_model_len
            assert {model["max_model_len"] for model in listed} == {length}
            async with gateway.session.get(
                f"{gateway.url}/v1/models/sql", headers={"anthropic-version": "2023-06-01"}
            ) as answer:
                assert (await answer.json())["id"] == "sql"
            chat = {"model": "sql", "messages": [{"role": "user", "content": "Hello."}]}
            status, told = await gateway.post("/v1/chat/completions", {**chat, "max_tokens": 4})
            assert (status, told["usage"]["completion_tokens"]) == (200, 4)
