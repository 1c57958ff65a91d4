"""KEDA may ask any gateway of a cluster: the leader tells, whoever is asked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc

from gateway.doors.keda.external_scaler import SERVICE
from gateway.doors.keda.externalscaler_pb2 import (
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    ScaledObjectRef,
)
from tests.counting import Counting, counting
from tests.serving import READY_S
from tests.stack.gateways.cluster import cluster, free_ports
from tests.stack.ledger.postgres import Postgres


async def asked(address: str, method: str, request: Any, answer: Any) -> Any:
    """The answer of a scaler's port."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return await call(request, timeout=READY_S)


async def refusal(address: str, method: str, request: Any, answer: Any) -> tuple[Any, str]:
    """Code and text of an RPC that fails."""
    try:
        found = await asked(address, method, request, answer)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError(found)


async def test_every_gateway_answers_keda_for_the_leader(
    tmp_path: Path, postgres: Postgres
) -> None:
    dsn = await postgres.new_database("scaler")
    ports = free_ports(2)
    upstream = Counting()
    async with counting(upstream), cluster(tmp_path, dsn, [upstream.url], 2) as made:
        for member, port in zip(made.members, ports, strict=True):
            config = json.loads(member.file.read_text())
            config["server"]["scaler_listen"] = f"127.0.0.1:{port}"
            member.file.write_text(json.dumps(config))
        await asyncio.gather(*(member.start() for member in made.members))
        for port in ports:
            address = f"127.0.0.1:{port}"
            unknown = ScaledObjectRef(scalerMetadata={"pool": "x", "maxReplicas": "8"})
            code, text = await refusal(address, "IsActive", unknown, IsActiveResponse)
            assert (code, "the pools are own" in text) == (grpc.StatusCode.NOT_FOUND, True)
            known = ScaledObjectRef(scalerMetadata={"pool": "own", "maxReplicas": "8"})
            request = GetMetricsRequest(scaledObjectRef=known)
            code, text = await refusal(address, "GetMetrics", request, GetMetricsResponse)
            assert (code, "demand is counted" in text) == (grpc.StatusCode.UNAVAILABLE, True)
