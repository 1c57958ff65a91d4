"""The server around the RPCs: TLS, reload, drain, limits of messages and connections."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import msgspec
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole, TenantConfig
from gateway.config.limits import LimitsConfig
from gateway.config.problems import ConfigError, ReloadRefused
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.server import TlsConfig
from gateway.server import running_gateway
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from tests import serving
from tests.serving import METADATA, chat_request, first_message, read_stream

LIST = inference_pb2.ListModelsRequest()


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedVllm]:
    async with simulated_vllm(SimulatedVllmConfig(served_model_name="moe", speed=20.0)) as running:
        yield running


def with_server(config: GatewayConfig, **changes: object) -> GatewayConfig:
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, **changes))


def with_key(config: GatewayConfig, key: str) -> GatewayConfig:
    keys = (KeyConfig(id="new", sha256=key_sha256(key), role=KeyRole.OPERATOR),)
    return msgspec.structs.replace(config, tenants=(TenantConfig(name="team", keys=keys),))


def write_pair(folder: Path, authority: trustme.CA, name: str = "server") -> None:
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(folder / f"{name}.key")
    (folder / f"{name}.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


async def models(
    address: str, credentials: grpc.ChannelCredentials
) -> inference_pb2.ListModelsResponse:
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        return await stub.ListModels(LIST, metadata=METADATA, timeout=serving.READY_S)


async def refused(address: str, credentials: grpc.ChannelCredentials) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models(address, credentials)
    return caught.value.code()


async def test_tls_and_new_certificates_on_reload(sim: SimulatedVllm, tmp_path: Path) -> None:
    old, new = trustme.CA(), trustme.CA()
    trusts_old = grpc.ssl_channel_credentials(old.cert_pem.bytes())
    trusts_new = grpc.ssl_channel_credentials(new.cert_pem.bytes())
    write_pair(tmp_path, old)
    config = with_server(
        serving.config(pools=[serving.pool([sim.url])]),
        tls=TlsConfig(cert="server.crt", key="server.key"),
    )
    async with running_gateway(config, tmp_path) as gateway:
        assert (await models(gateway.address, trusts_old)).models
        assert await refused(gateway.address, trusts_new) is grpc.StatusCode.UNAVAILABLE
        write_pair(tmp_path, new)
        await gateway.reload(config, tmp_path)
        assert (await models(gateway.address, trusts_new)).models
        with pytest.raises(ReloadRefused, match=r"server\.tls"):
            await gateway.reload(serving.config(pools=config.pools), tmp_path)


async def test_mtls_takes_only_clients_of_its_authority(sim: SimulatedVllm, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    write_pair(tmp_path, authority)
    authority.cert_pem.write_to_path(tmp_path / "clients.crt")
    tls = TlsConfig(cert="server.crt", key="server.key", client_ca="clients.crt")
    config = with_server(serving.config(pools=[serving.pool([sim.url])]), tls=tls)

    def client(ca: trustme.CA) -> grpc.ChannelCredentials:
        issued = ca.issue_cert("client@example.org")
        return grpc.ssl_channel_credentials(
            authority.cert_pem.bytes(),
            issued.private_key_pem.bytes(),
            issued.cert_chain_pems[0].bytes(),
        )

    async with running_gateway(config, tmp_path) as gateway:
        assert (await models(gateway.address, client(authority))).models
        assert await refused(gateway.address, client(stranger)) is grpc.StatusCode.UNAVAILABLE
        without = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        assert await refused(gateway.address, without) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("missing", r"server\.tls\.key"),
        ("other key", "does not go with the key"),
        ("no pem", "does not go with the key"),
        ("no authority", r"server\.tls\.client_ca.*"),
    ],
)
async def test_tls_files_that_cannot_be_used_are_named(
    broken: str, message: str, tmp_path: Path
) -> None:
    write_pair(tmp_path, trustme.CA())
    trustme.CA().cert_pem.write_to_path(tmp_path / "clients.crt")
    match broken:
        case "missing":
            (tmp_path / "server.key").unlink()
        case "other key":
            write_pair(tmp_path, trustme.CA(), "other")
            (tmp_path / "other.key").rename(tmp_path / "server.key")
        case "no pem":
            (tmp_path / "server.crt").write_text("nonsense")
        case "no authority":
            (tmp_path / "clients.crt").write_text("nonsense")
    tls = TlsConfig(cert="server.crt", key="server.key", client_ca="clients.crt")
    config = with_server(serving.config(pools=[serving.pool(["http://127.0.0.1:1"])]), tls=tls)
    with pytest.raises(ConfigError, match=message):
        async with running_gateway(config, tmp_path):
            pass


async def test_a_reload_swaps_keys_while_streams_go_on(sim: SimulatedVllm) -> None:
    config = serving.config(pools=[serving.pool([sim.url])])
    async with serving.serving(config) as gateway:
        request = chat_request(max_output_tokens=400, ignore_eos=True)
        call = gateway.stub.Generate(request, metadata=METADATA)
        await first_message(call)
        await gateway.gateway.reload(with_key(config, "mg-new"), Path.cwd())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.stub.ListModels(LIST, metadata=METADATA)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        # In service at once: the replica has proved itself under the old configuration.
        seen = await read_stream(
            gateway.stub.Generate(chat_request(), metadata=(("x-api-key", "mg-new"),))
        )
        assert seen.done is not None
        rest = await read_stream(call)
        assert rest.done is not None
        assert rest.done.usage.completion_tokens == 400
        await serving.until(lambda: gateway.gateway.pipeline.active_requests == 0)


async def test_no_count_of_reloads_can_refuse_one_while_streams_run(sim: SimulatedVllm) -> None:
    async with simulated_vllm(SimulatedVllmConfig(served_model_name="moe")) as slow:
        config = serving.config(pools=[serving.pool([slow.url], max_num_seqs=16)])
        async with serving.serving(config) as gateway:
            long = chat_request(max_output_tokens=8000, ignore_eos=True)
            calls = []
            for _ in range(12):
                calls.append(gateway.stub.Generate(long, metadata=METADATA))
                await first_message(calls[-1])
                await gateway.gateway.reload(config, Path.cwd())
            await gateway.gateway.reload(with_key(config, "mg-new"), Path.cwd())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.stub.ListModels(LIST, metadata=METADATA)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert gateway.gateway.pipeline.active_requests == len(calls)
            for call in calls:
                call.cancel()
            await serving.until(lambda: gateway.gateway.pipeline.active_requests == 0)


async def test_a_message_above_the_limit_is_refused(sim: SimulatedVllm) -> None:
    limits = LimitsConfig(message_bytes=65_536)
    async with serving.serving(
        serving.config(pools=[serving.pool([sim.url])], limits=limits)
    ) as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(gateway.stub.Generate(chat_request("x" * 70_000), metadata=METADATA))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_old_connection_is_renewed_without_a_failed_call(sim: SimulatedVllm) -> None:
    config = with_server(
        serving.config(pools=[serving.pool([sim.url])]),
        max_connection_age_s=0.2,
        max_connection_age_grace_s=30.0,
    )
    async with serving.serving(config) as gateway:
        request = chat_request(max_output_tokens=300, ignore_eos=True)
        call = gateway.stub.Generate(request, metadata=METADATA)
        for _ in range(30):
            await gateway.stub.ListModels(LIST, metadata=METADATA)
            await asyncio.sleep(0.02)
        seen = await read_stream(call)
        assert seen.done is not None


@contextlib.asynccontextmanager
async def serve_command(path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "moegate", "serve", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(serving.READY_S):
            line = (await process.stdout.readline()).decode()
        match = re.search(r"listens on (\S+)", line)
        assert match, line
        yield process, match[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def log_says(process: asyncio.subprocess.Process, pattern: str) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(serving.READY_S):
        while line := (await process.stderr.readline()).decode():
            if re.search(pattern, line):
                return line
    raise AssertionError(f"the log never says {pattern!r}")


async def reloads(channel: grpc.aio.Channel, key: str) -> list[tuple[str, str]]:
    """Who reloaded, and what changed, as the audit log has it."""
    stub = admin_pb2_grpc.AdminServiceStub(channel)
    found = await stub.ListAuditEvents(
        admin_pb2.ListAuditEventsRequest(), metadata=(("x-api-key", key),)
    )
    return [(event.actor, event.after_json) for event in found.events if event.action == "Reload"]


async def test_sighup_reloads_and_sigterm_drains(sim: SimulatedVllm, tmp_path: Path) -> None:
    path = tmp_path / "moegate.yaml"
    config = with_server(serving.config(pools=[serving.pool([sim.url])]), drain_delay_s=0.5)
    path.write_bytes(msgspec.yaml.encode(config))
    async with serve_command(path) as (process, address), grpc.aio.insecure_channel(address) as ch:
        await log_says(process, "own/a in service")
        stub = inference_pb2_grpc.InferenceServiceStub(ch)
        path.write_text("pools: nonsense")
        process.send_signal(signal.SIGHUP)
        # Not on a terminal the log is JSON: the faults of a file are lines of one message.
        assert "pools" in await log_says(process, "the old configuration stays in force")
        assert (await stub.ListModels(LIST, metadata=METADATA)).models
        path.write_bytes(msgspec.yaml.encode(with_key(config, "mg-new")))
        process.send_signal(signal.SIGHUP)
        await log_says(process, "reloaded")
        assert await reloads(ch, "mg-new") == [("signal:HUP", '{"changes": ["tenants"]}')]
        metadata = (("x-api-key", "mg-new"),)
        request = chat_request(max_output_tokens=600, ignore_eos=True)
        call = stub.Generate(request, metadata=metadata)
        await first_message(call)
        process.send_signal(signal.SIGTERM)
        await log_says(process, "draining: 1 requests in flight")
        health = health_pb2_grpc.HealthStub(ch)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        seen = await read_stream(call)
        assert seen.done is not None
        assert seen.done.usage.completion_tokens == 600
        async with asyncio.timeout(serving.READY_S):
            assert await process.wait() == 0


async def test_a_changed_file_is_put_into_force_without_a_signal(
    sim: SimulatedVllm, tmp_path: Path
) -> None:
    path = tmp_path / "moegate.yaml"
    config = with_server(serving.config(pools=[serving.pool([sim.url])]), watch_files_s=0.1)
    path.write_bytes(msgspec.yaml.encode(config))
    async with serve_command(path) as (process, address), grpc.aio.insecure_channel(address) as ch:
        await log_says(process, "own/a in service")
        stub = inference_pb2_grpc.InferenceServiceStub(ch)
        path.write_text("pools: nonsense")
        await log_says(process, "the old configuration stays in force")
        assert (await stub.ListModels(LIST, metadata=METADATA)).models
        path.write_bytes(msgspec.yaml.encode(with_key(config, "mg-new")))
        await log_says(process, "reloaded")
        assert (await stub.ListModels(LIST, metadata=(("x-api-key", "mg-new"),))).models
        assert await reloads(ch, "mg-new") == [("watch:files", '{"changes": ["tenants"]}')]


async def test_a_second_signal_ends_the_waiting(sim: SimulatedVllm, tmp_path: Path) -> None:
    path = tmp_path / "moegate.yaml"
    config = with_server(
        serving.config(pools=[serving.pool([sim.url])]), drain_delay_s=3000.0, drain_s=3000.0
    )
    path.write_bytes(msgspec.yaml.encode(config))
    async with serve_command(path) as (process, _):
        process.send_signal(signal.SIGTERM)
        await log_says(process, "draining")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(serving.READY_S):
            assert await process.wait() == 0
