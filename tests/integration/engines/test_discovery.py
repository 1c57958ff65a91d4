"""Replicas found in DNS or in Kubernetes: a real DNS server whose answer changes, Kubernetes' API
as far as it tells endpoints, real vLLM-shaped servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import dns.rcode
import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.config.discovery import DiscoveryConfig, EndpointSlicesConfig
from gateway.config.gateway import GatewayConfig, GpuConfig
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import inference_pb2
from tests import serving
from tests.dns_server import DnsServer, dns_server
from tests.kubernetes_api import endpoint, kubernetes_api
from tests.serving import METADATA, Serving, chat_request, first_message, read_stream

NAME = "vllm.models.svc.cluster.local"
FIRST, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"


@contextlib.asynccontextmanager
async def fleet(data_parallel_size: int = 1) -> AsyncIterator[tuple[dict[str, SimulatedVllm], int]]:
    """Servers on one port of three loopback addresses, as pods have them."""
    async with contextlib.AsyncExitStack() as stack:
        servers: dict[str, SimulatedVllm] = {}
        port = 0
        for host in (FIRST, SECOND, THIRD):
            settings = SimulatedVllmConfig(
                served_model_name=serving.MODEL,
                host=host,
                port=port,
                speed=5.0,
                data_parallel_size=data_parallel_size,
            )
            servers[host] = await stack.enter_async_context(simulated_vllm(settings))
            port = int(servers[host].url.rpartition(":")[2])
        yield servers, port


def config(
    dns: DnsServer, port: int, max_replicas: int = 16, start_s: float | None = None
) -> GatewayConfig:
    discover = DiscoveryConfig(
        dns=NAME,
        port=port,
        nameserver=dns.address,
        min_refresh_s=0.05,
        max_refresh_s=0.05,
        timeout_s=0.5,
        max_replicas=max_replicas,
        start_s=start_s,
    )
    pool = msgspec.structs.replace(serving.pool([]), discover=discover)
    return serving.config(pools=[pool])


def in_service(gateway: Serving) -> set[str]:
    """Addresses whose placements serve."""
    targets = gateway.gateway.parts.fleet.connections.targets
    return {
        targets[state.facts.name][0].removeprefix("http://").rpartition(":")[0]
        for state in gateway.gateway.scheduler.core.placements
        if state.serving
    }


async def until_in_service(gateway: Serving, *addresses: str) -> None:
    await serving.until(lambda: in_service(gateway) == set(addresses))


async def generate(gateway: Serving) -> str:
    """Runs a request; the place that served it."""
    seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
    assert seen.done is not None
    return seen.done.route.replica


async def test_replicas_come_and_go_and_running_streams_end_well() -> None:
    async with (
        fleet() as (servers, port),
        dns_server(NAME, FIRST) as dns,
        serving.serving(config(dns, port), ready=False) as gateway,
    ):
        await until_in_service(gateway, FIRST)
        old = await generate(gateway)
        request = chat_request(max_output_tokens=300, ignore_eos=True)
        call = gateway.stub.Generate(request, metadata=METADATA)
        await first_message(call)
        dns.addresses = [SECOND, THIRD]
        await until_in_service(gateway, SECOND, THIRD)
        assert {await generate(gateway) for _ in range(6)}.isdisjoint({old})
        seen = await read_stream(call)
        assert seen.done is not None
        assert seen.done.usage.completion_tokens == 300
        assert seen.done.route.replica == old
        listed = await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=METADATA)
        assert [(m.local_replicas, m.local_replicas_serving) for m in listed.models] == [(2, 2)]
        assert servers[FIRST].url.endswith(str(port))
        snapshot = (await gateway.gateway.scheduler.figures()).snapshot
        assert len(snapshot.placements) == 2, "free places are no replicas"
        assert [(pool.groups, pool.groups_serving) for pool in snapshot.pools] == [(2, 2)]


async def test_requests_wait_for_the_first_server_of_a_pool_that_is_scaled_from_none() -> None:
    async with (
        fleet() as (_, port),
        dns_server(NAME) as dns,
        serving.serving(config(dns, port, start_s=600.0), ready=False) as gateway,
    ):
        # It takes calls, so that a Service of Kubernetes sends it some.
        health = health_pb2_grpc.HealthStub(gateway.channel)
        await serving.until(lambda: dns.asked > 2)
        told = await health.Check(health_pb2.HealthCheckRequest())
        assert told.status == health_pb2.HealthCheckResponse.SERVING
        waiting = asyncio.create_task(generate(gateway))
        leaving = gateway.stub.Generate(chat_request(), metadata=METADATA)
        await serving.until(lambda: gateway.gateway.scheduler.core.queued_requests == 2)
        leaving.cancel()
        await serving.until(lambda: gateway.gateway.scheduler.core.queued_requests == 1)
        dns.addresses = [FIRST]  # what an autoscaler does that sees the queue
        assert await waiting
        # And back to none: what is in service no more makes nobody fail.
        dns.addresses = []
        await until_in_service(gateway)
        again = asyncio.create_task(generate(gateway))
        await serving.until(lambda: gateway.gateway.scheduler.core.queued_requests == 1)
        dns.addresses = [SECOND]
        assert await again


async def test_replicas_come_and_go_as_kubernetes_tells_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token")
    async with fleet() as (_, port), kubernetes_api("models", "vllm") as api:
        service = EndpointSlicesConfig(
            service="vllm",
            namespace="models",
            api_server=api.url,
            token_file=str(tmp_path / "token"),
        )
        discover = DiscoveryConfig(endpoint_slices=service, port=port, min_refresh_s=0.05)
        pool = msgspec.structs.replace(serving.pool([]), discover=discover)
        api.set("one", endpoint(FIRST))
        async with serving.serving(serving.config(pools=[pool]), ready=False) as gateway:
            await until_in_service(gateway, FIRST)
            request = chat_request(max_output_tokens=300, ignore_eos=True)
            call = gateway.stub.Generate(request, metadata=METADATA)
            await first_message(call)
            api.set("one", endpoint(FIRST, ready=False), endpoint(SECOND))
            await until_in_service(gateway, SECOND)
            assert await generate(gateway)
            seen = await read_stream(call)
            assert seen.done is not None
            assert seen.done.usage.completion_tokens == 300
            assert api.lists == 1


async def test_a_place_that_becomes_free_is_taken_without_a_change_in_kubernetes(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("token")
    async with fleet() as (_, port), kubernetes_api("models", "vllm") as api:
        service = EndpointSlicesConfig(
            service="vllm",
            namespace="models",
            api_server=api.url,
            token_file=str(tmp_path / "token"),
        )
        discover = DiscoveryConfig(
            endpoint_slices=service,
            port=port,
            min_refresh_s=0.05,
            max_refresh_s=3600.0,
            timeout_s=0.2,
            max_replicas=1,
        )
        pool = msgspec.structs.replace(serving.pool([]), discover=discover)
        api.set("one", endpoint(FIRST))
        async with serving.serving(serving.config(pools=[pool]), ready=False) as gateway:
            await until_in_service(gateway, FIRST)
            request = chat_request(max_output_tokens=200, ignore_eos=True)
            call = gateway.stub.Generate(request, metadata=METADATA)
            await first_message(call)
            api.set("one", endpoint(SECOND))
            await until_in_service(gateway)
            await read_stream(call)  # its place is free from here on
            await until_in_service(gateway, SECOND)


@pytest.mark.parametrize("failure", ["SERVFAIL", "REFUSED", "silent"])
async def test_a_resolver_that_fails_keeps_the_last_answer_and_says_so_once(
    failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.fleet.discovery")
    async with (
        fleet() as (_, port),
        dns_server(NAME, FIRST) as dns,
        serving.serving(config(dns, port), ready=False) as gateway,
    ):
        await until_in_service(gateway, FIRST)
        if failure == "silent":
            dns.silent = True
        else:
            dns.rcode = dns_rcode(failure)
        asked = dns.asked
        await serving.until(lambda: dns.asked >= asked + 4)
        await serving.until(lambda: "the last answer holds" in caplog.text)
        assert in_service(gateway) == {FIRST}
        await generate(gateway)
        assert caplog.text.count("the last answer holds") == 1
        dns.rcode, dns.silent = dns_rcode("NOERROR"), False
        await serving.until(lambda: "is answered again" in caplog.text)


def dns_rcode(text: str) -> dns.rcode.Rcode:
    return dns.rcode.from_text(text)


@pytest.mark.parametrize("empty", ["NOERROR", "NXDOMAIN"])
async def test_an_empty_answer_counts_when_the_next_one_is_empty_too(empty: str) -> None:
    async with (
        fleet() as (_, port),
        dns_server(NAME, FIRST) as dns,
        serving.serving(config(dns, port), ready=False) as gateway,
    ):
        await until_in_service(gateway, FIRST)
        dns.addresses, dns.rcode = [], dns_rcode(empty)
        await until_in_service(gateway)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(gateway)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        dns.addresses, dns.rcode = [FIRST], dns_rcode("NOERROR")
        await until_in_service(gateway, FIRST)


async def test_a_place_is_free_for_another_address_once_its_streams_have_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        fleet() as (_, port),
        dns_server(NAME, FIRST) as dns,
        serving.serving(config(dns, port, max_replicas=1), ready=False) as gateway,
    ):
        await until_in_service(gateway, FIRST)
        request = chat_request(max_output_tokens=200, ignore_eos=True)
        call = gateway.stub.Generate(request, metadata=METADATA)
        await first_message(call)
        dns.addresses = [SECOND]
        await serving.until(lambda: "no place for 127.0.0.3" in caplog.text)
        assert in_service(gateway) == set()
        seen = await read_stream(call)
        assert seen.done is not None
        await until_in_service(gateway, SECOND)


async def test_a_reload_keeps_what_was_found_though_dns_is_silent() -> None:
    async with (
        fleet() as (_, port),
        dns_server(NAME, FIRST, SECOND) as dns,
        serving.serving(config(dns, port), ready=False) as gateway,
    ):
        await until_in_service(gateway, FIRST, SECOND)
        dns.silent = True
        await gateway.gateway.reload(config(dns, port), Path.cwd())
        assert in_service(gateway) == {FIRST, SECOND}
        await generate(gateway)
        dns.silent, dns.addresses = False, [SECOND]
        await until_in_service(gateway, SECOND)


async def test_pinned_ranks_come_and_go_with_their_replica() -> None:
    """Of two ranks each: a replica brings both, and takes both with it."""
    async with (
        fleet(data_parallel_size=2) as (servers, port),
        dns_server(NAME, FIRST, SECOND) as dns,
    ):
        found = config(dns, port, max_replicas=3)
        pool = msgspec.structs.replace(
            found.pools[0],
            data_parallel_ranks=2,
            pin_ranks=True,
            gpu=GpuConfig(type="H100", count=2, usd_per_gpu_hour="2"),
        )
        settings = msgspec.structs.replace(found, pools=(pool,))
        async with serving.serving(settings, ready=False) as gateway:
            targets = gateway.gateway.parts.fleet.connections.targets
            core = gateway.gateway.scheduler.core

            def serves() -> set[tuple[str, int]]:
                return {
                    (targets[state.facts.name][0].split("/")[2].split(":")[0], rank)
                    for state in core.placements
                    if state.serving and (rank := state.facts.dp_rank) is not None
                }

            await serving.until(
                lambda: serves() == {(h, r) for h in (FIRST, SECOND) for r in (0, 1)}
            )
            snapshot = (await gateway.gateway.scheduler.figures()).snapshot
            assert len(snapshot.placements) == 4, "free places are no replicas"
            assert [(pool.groups, pool.groups_serving) for pool in snapshot.pools] == [(2, 2)]
            request = chat_request(max_output_tokens=300, ignore_eos=True)
            calls = [gateway.stub.Generate(request, metadata=METADATA) for _ in range(4)]
            for call in calls:
                await first_message(call)
            for host in (FIRST, SECOND):
                assert [len(rank.running) for rank in servers[host].engine.ranks] == [1, 1]
            dns.addresses = [SECOND, THIRD]
            await serving.until(
                lambda: serves() == {(h, r) for h in (SECOND, THIRD) for r in (0, 1)}
            )
            ended = [await read_stream(call) for call in calls]
            routes = {seen.done.route.replica for seen in ended if seen.done is not None}
            assert len(routes) == 4, "every rank of the first two had one, and ended it"
            gone = {seen.done.route.replica.partition("/")[0] for seen in ended if seen.done}
            assert len(gone) == 2
            states = core.placements
            await serving.until(lambda: not any(state.residents for state in states))


async def test_addresses_of_ipv6_count_where_there_are_none_of_ipv4() -> None:
    settings = SimulatedVllmConfig(served_model_name=serving.MODEL, host="::1", speed=20.0)
    try:
        async with simulated_vllm(settings) as server, dns_server(NAME, "::1") as dns:
            port = int(server.url.rpartition(":")[2])
            async with serving.serving(config(dns, port), ready=False) as gateway:
                await until_in_service(gateway, "[::1]")
                await generate(gateway)
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")


async def test_nothing_of_it_is_left_when_the_gateway_ends() -> None:
    async with dns_server(NAME) as dns:
        async with serving.serving(config(dns, 1), ready=False):
            await serving.until(lambda: dns.asked > 2)
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert not any(name.startswith("moegate-") for name in names)
