"""A real vLLM that runs four sequences, and forty requests at once: the excess goes to a remote."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import aiohttp
import msgspec
import pytest

from gateway.config.limits import LimitsConfig
from gateway.upstream.vllm.metrics import parse_metrics
from moegate.v1 import generation_pb2
from scheduler.contract import AttemptOutcome, PlacementKind
from scheduler.metering.rate_snapshot import RateSnapshot, rate_snapshot
from scheduler.metering.settlement import SettledAttempt
from tests import serving
from tests.known import known
from tests.misbehaving import (
    INPUT_NANO_USD,
    OUTPUT_NANO_USD,
    RATES,
    Act,
    Script,
    Side,
    Upstream,
    listening,
)
from tests.serving import METADATA, Serving, chat_request, read_stream, until
from tests.vllm.launch import VllmProcess, running_vllm, unsupported_cpu

REQUESTS, SEQUENCES, QUEUED, TOKENS = 40, 4, 4, 24


@pytest.fixture(scope="module")
def small_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    if reason := unsupported_cpu():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("small-vllm")
    with running_vllm(directory, extra_flags=(f"--max-num-seqs={SEQUENCES}",)) as server:
        yield server


@contextlib.asynccontextmanager
async def overflowing(
    vllm: VllmProcess, upstream: Upstream, settled: list[SettledAttempt]
) -> AsyncIterator[Serving]:
    async with listening(upstream):
        pool = serving.pool([vllm.base_url], upstream_model=vllm.model, max_num_seqs=SEQUENCES)
        settings = msgspec.structs.replace(
            serving.config(
                pools=[pool], remotes=[serving.remote(upstream.url, max_concurrency=REQUESTS)]
            ),
            limits=LimitsConfig(queue_requests=QUEUED),
        )
        async with serving.serving(settings, sinks=(settled.append,)) as served:
            scheduler = served.gateway.scheduler
            placements = [state.facts for state in scheduler.core.placements]
            remotes = rate_snapshot(placements).remotes
            rates = {placement.name: RATES for placement in placements}
            scheduler.use_rates(RateSnapshot(rates=rates, remotes=remotes))
            yield served


async def test_the_excess_of_forty_requests_goes_to_the_remote(small_vllm: VllmProcess) -> None:
    settled: list[SettledAttempt] = []
    far = Upstream(Side.OPENAI, Script(rest=Act(pause_s=0.02)))
    async with overflowing(small_vllm, far, settled) as served, aiohttp.ClientSession() as http:

        async def generated() -> int:
            async with http.get(f"{small_vllm.base_url}/metrics") as response:
                report = parse_metrics(await response.read(), "own/a", 0.0, None)
            assert known(report.running) <= SEQUENCES
            return known(report.generation_tokens_total)

        before = await generated()
        calls = [
            served.stub.Generate(
                chat_request(f"Tell me story {i}.", max_output_tokens=TOKENS, ignore_eos=False),
                metadata=METADATA,
            )
            for i in range(REQUESTS)
        ]
        seen = await asyncio.gather(*(read_stream(call) for call in calls))
        dones = [stream.done for stream in seen if stream.done is not None]
        assert len(dones) == REQUESTS, "all complete"
        kinds = Counter(done.route.kind for done in dones)
        local = kinds[generation_pb2.PLACEMENT_KIND_LOCAL]
        remote = kinds[generation_pb2.PLACEMENT_KIND_REMOTE]
        # What runs and what may wait stays; how much more is served meanwhile is the speed's of the
        # engine and of what else this computer does.
        assert local >= SEQUENCES
        assert remote > 0
        assert len(far.calls) == remote
        assert all(
            "saturated" in done.route.reason or "full" in done.route.reason
            for done in dones
            if done.route.kind == generation_pb2.PLACEMENT_KIND_REMOTE
        )

        scheduler = served.gateway.scheduler.core
        await until(lambda: repr(scheduler) == "<Scheduler: 0 queued, 0 running>")
        assert len(settled) == REQUESTS
        assert {attempt.outcome for attempt in settled} == {AttemptOutcome.OK}
        assert sum(attempt.final for attempt in settled) == REQUESTS

        # The engine's own counter against the usage that clients got.
        own = [d for d in dones if d.route.kind == generation_pb2.PLACEMENT_KIND_LOCAL]
        assert await generated() - before == sum(done.usage.completion_tokens for done in own)

        # The costs that clients were told are those of the accounts, and tokens times the rate.
        for done in dones:
            cost = done.usage.prompt_tokens * INPUT_NANO_USD + (
                done.usage.completion_tokens * OUTPUT_NANO_USD
            )
            assert done.cost.charged_nano_usd == cost
        charged = sum(attempt.charged_nano_usd or 0 for attempt in settled)
        assert sum(done.cost.charged_nano_usd for done in dones) == charged
        bought = [a for a in settled if a.kind is PlacementKind.REMOTE]
        assert all(a.metered_nano_usd == a.charged_nano_usd for a in bought)
