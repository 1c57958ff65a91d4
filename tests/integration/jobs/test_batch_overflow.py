"""Items of a late job go from a saturated vLLM to a remote, and the bill is exact at both."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from google.protobuf import timestamp_pb2
from msgspec import structs

from gateway.batch import estimates
from gateway.config.batch import BatchConfig
from gateway.config.gateway import GatewayConfig
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.v1 import batch_pb2, batch_pb2_grpc, generation_pb2
from tests import serving
from tests.integration.jobs.test_batch_prices import FAR, OWN, attempts, priced
from tests.misbehaving import Act, Script, Side, Upstream, listening
from tests.serving import METADATA, MODEL, Serving, chat_request

SLOW = SimulatedVllmConfig(served_model_name=MODEL, speed=0.2, max_num_seqs=1)
"""One item at a time, each for more than a second."""
ITEMS, OUTPUT_TOKENS = 24, 80
HERE = generation_pb2.PLACEMENT_KIND_LOCAL
DEADLINE_S, BOUND_S = 30.0, 120.0
Policy = generation_pb2.DataPolicy | None
OWN_NANO_USD, FAR_NANO_USD, FAR_BATCH_NANO_USD = (500, 5_000), (2_000, 20_000), (1_000, 10_000)
"""Of a token in and a token out: of batch work here, of the remote's list, of its batch tier."""


def settings(own: str, far: str, folder: Path, tier: str) -> GatewayConfig:
    remote = structs.replace(
        serving.remote(far, max_concurrency=ITEMS),
        price_row="acme/moe",
        batch_body_json=tier or None,
    )
    made = serving.config(pools=[serving.pool([own], max_num_seqs=1)], remotes=[remote])
    return priced(structs.replace(made, batch=BatchConfig(items_waiting=2)), folder, OWN + FAR)


async def run_job(
    gateway: Serving,
    items: int,
    deadline_s: float,
    of_job: Policy = None,
    of_requests: Policy = None,
) -> tuple[batch_pb2.Batch, list[batch_pb2.StreamBatchResultsResponse]]:
    stub = batch_pb2_grpc.BatchServiceStub(gateway.channel)
    messages = [
        batch_pb2.SubmitBatchRequest(
            item_id=f"i{number}",
            request=chat_request(f"Tell {number}.", max_output_tokens=OUTPUT_TOKENS),
        )
        for number in range(items)
    ]
    deadline = timestamp_pb2.Timestamp(seconds=round(time.time() + deadline_s))
    messages[0].complete_before.CopyFrom(deadline)
    if of_job is not None:
        messages[0].data_policy.CopyFrom(of_job)
    for message in messages:
        if of_requests is not None:
            message.request.data_policy.CopyFrom(of_requests)
    submitted = await stub.SubmitBatch(iter(messages), metadata=METADATA)
    asked = batch_pb2.StreamBatchResultsRequest(batch_id=submitted.batch.batch_id)
    async with asyncio.timeout(BOUND_S):
        results = [each async for each in stub.StreamBatchResults(asked, metadata=METADATA)]
    state = batch_pb2.GetBatchRequest(batch_id=submitted.batch.batch_id)
    return (await stub.GetBatch(state, metadata=METADATA)).batch, results


def cost(response: batch_pb2.StreamBatchResultsResponse, nano_usd: tuple[int, int]) -> int:
    usage = response.response.done.usage
    return int(usage.prompt_tokens * nano_usd[0] + usage.completion_tokens * nano_usd[1])


async def test_a_job_that_becomes_late_ends_at_the_remote(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """At the price of its batch tier, or of its list where it has none."""
    made = tmp_path_factory.mktemp
    await asyncio.gather(
        ends_at_the_remote(
            '{"service_tier": "flex"}', "far@batch", FAR_BATCH_NANO_USD, made("tier")
        ),
        ends_at_the_remote("", "far", FAR_NANO_USD, made("list")),
    )


async def ends_at_the_remote(
    tier: str, row: str, far_nano_usd: tuple[int, int], folder: Path
) -> None:
    far = Upstream(Side.OPENAI, Script(rest=Act()))
    async with simulated_vllm(SLOW) as own, listening(far):
        made = settings(own.url, far.url, folder, tier)
        async with serving.serving_in(folder, made) as gateway:
            batch, results = await run_job(gateway, ITEMS, DEADLINE_S)
    assert (batch.requests, batch.succeeded, batch.failed) == (ITEMS, ITEMS, 0)
    assert sorted(each.item_id for each in results) == sorted(f"i{n}" for n in range(ITEMS))
    kinds = [each.response.done.route.kind for each in results]
    remote = [kind == generation_pb2.PLACEMENT_KIND_REMOTE for kind in kinds]
    # It began here, and did not leave before it was late.
    assert not remote[0]
    assert 0 < sum(remote) == len(far.calls)
    assert all(("service_tier" in body) == bool(tier) for body in far.bodies)
    costs = [
        cost(each, far_nano_usd if away else OWN_NANO_USD)
        for each, away in zip(results, remote, strict=True)
    ]
    assert [each.response.done.cost.charged_nano_usd for each in results] == costs
    assert batch.charged_nano_usd == sum(costs)
    rows = await attempts(folder)
    assert sum(charged for *_, charged in rows) == sum(costs)
    assert {(kind, name) for kind, name, *_ in rows if name != "own@batch"} == {("standard", row)}
    assert sum(name == row for _, name, *_ in rows) == sum(remote)
    assert sum(charged > 0 for *_, charged in rows) == ITEMS  # besides evicted runs


EU, US, LOCAL = (
    generation_pb2.DataPolicy(remote_classes=["eu"]),
    generation_pb2.DataPolicy(remote_classes=["us"]),
    generation_pb2.DataPolicy(local_only=True),
)


async def test_a_late_item_goes_only_where_job_and_request_allow(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "LATE_SHARE", 1.0)
    cases: tuple[tuple[Policy, Policy, bool], ...] = (
        (None, None, True),
        (EU, EU, True),
        (LOCAL, None, False),
        (None, LOCAL, False),
        (EU, US, False),
        (US, EU, False),
    )
    await asyncio.gather(
        *(goes_where_allowed(*case, tmp_path_factory.mktemp("case")) for case in cases)
    )


async def goes_where_allowed(
    of_job: Policy,
    of_requests: Policy,
    may_leave: bool,
    folder: Path,
) -> None:
    far = Upstream(Side.OPENAI, Script(rest=Act()))
    async with simulated_vllm(SLOW) as own, listening(far):
        made = settings(own.url, far.url, folder, "")
        # Six wait at once: the last of them too long for their class.
        made = structs.replace(made, batch=BatchConfig(items_waiting=6))
        async with serving.serving_in(folder, made) as gateway:
            batch, results = await run_job(gateway, 6, BOUND_S, of_job, of_requests)
    assert bool(far.calls) == may_leave
    errors = [each.error for each in results if each.WhichOneof("outcome") == "error"]
    assert (batch.succeeded, errors) == (6, [])
    here = [each for each in results if each.response.done.route.kind == HERE]
    assert len(here) == 6 - len(far.calls)
    assert sum(name == "own@batch" for _, name, *_ in await attempts(folder)) >= len(here)
