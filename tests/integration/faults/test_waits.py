"""How long a server is left alone after a refusal, and what operators see meanwhile."""

from __future__ import annotations

import grpc
import pytest
from msgspec.structs import replace

from gateway.config.remote import RemoteLimitsConfig
from scheduler.limits.breaker import BreakerPhase
from scheduler.placement_admission import LONGEST_OWN_PAUSE_S
from tests.misbehaving import Act, Bench, Script, Side, misbehaving
from tests.serving import METADATA, chat_request, read_stream

FOR_EVER = Act(status=503, error="full", retry_after="1" + "0" * 26)


async def ask(bench: Bench) -> None:
    await read_stream(bench.served.stub.Generate(chat_request(), metadata=METADATA))


@pytest.mark.parametrize("side", [Side.LOCAL, Side.OPENAI])
async def test_a_paused_server_is_not_shown_as_in_service(side: Side) -> None:
    async with misbehaving(side, Script([FOR_EVER]), Script([FOR_EVER]), Script()) as bench:
        for _ in range(6):
            await ask(bench)
        scheduler = bench.served.gateway.scheduler
        figures = await scheduler.figures()
        phases = figures.breaker_phases
        paused = [name for name, phase in phases.items() if phase is BreakerPhase.PAUSED]
        assert paused
        for placement in figures.snapshot.placements:
            assert placement.serving is (placement.name not in paused)
            if placement.name in paused:
                assert placement.reason.startswith("paused: ")


async def test_a_server_of_its_own_is_tried_again_within_half_a_minute() -> None:
    async with misbehaving(Side.LOCAL, Script([FOR_EVER]), Script([FOR_EVER])) as bench:
        scheduler = bench.served.gateway.scheduler
        call = bench.served.stub.Generate(chat_request(), metadata=METADATA, timeout=1.0)
        with pytest.raises(grpc.aio.AioRpcError):  # all servers are paused
            await read_stream(call)
        now = scheduler._clock()
        core = scheduler.core
        for state in core.placements:
            name = state.facts.name
            assert core.admission_report(name, now).phase is BreakerPhase.PAUSED
            later = now + LONGEST_OWN_PAUSE_S
            assert core.admission_report(name, later).phase is BreakerPhase.HALF_OPEN


async def test_a_remote_gets_no_more_than_its_requests_per_minute() -> None:
    limits = RemoteLimitsConfig(requests_per_minute=3)
    async with misbehaving(
        Side.OPENAI, Script(), Script(), change=lambda remote: replace(remote, limits=limits)
    ) as bench:
        for _ in range(6):
            await ask(bench)
        assert sorted(len(upstream.calls) for upstream in bench.upstreams) == [3, 3]
