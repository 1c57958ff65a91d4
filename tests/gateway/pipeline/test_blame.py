"""Who is at fault: what the pipeline reports, and what comes of it for clients and servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import ClassVar

import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.upstream.scripted import Fail, Finish, ScriptedUpstream, Step, text_answer
from scheduler.contract import RefusalReason
from scheduler.limits.breaker import BreakerPhase
from tests.gateway.pipeline.rig import answer, call, generation, running
from tests.gateway.pipeline.test_pipeline import refusal, two
from tests.virtual_time import in_virtual_time

GOOD = text_answer("one", " two")


class Poisoned(ScriptedUpstream):
    """Fails what says "poison"."""

    poisoned: ClassVar[list[str]] = []

    async def stream(
        self, generation: Generation, *, deadline_s: float
    ) -> AsyncGenerator[Chunk, None]:
        if "poison" in str(generation.input):
            self.poisoned.append(generation.request_id)
            raise UpstreamFailure(FailureKind.SERVER_ERROR, "it broke")
        async for chunk in super().stream(generation, deadline_s=deadline_s):
            yield chunk


@in_virtual_time
async def test_a_request_that_two_servers_call_bad_is_ended_and_blames_none() -> None:
    bad = ScriptedUpstream((Fail(kind=FailureKind.BAD_REQUEST, param="temperature"),))
    async with running(two(bad, bad)) as rig:
        for number in range(12):
            made = generation(f"r{number}", input=f"prompt {number}")
            with pytest.raises(UpstreamFailure) as caught:
                await answer(rig, call(made))
            assert caught.value.kind is FailureKind.BAD_REQUEST
            assert caught.value.param == "temperature"
        # Neither has answered anything: three comparisons are needed before they are believed once.
        assert len(rig.order) <= 12 + 6
        figures = await rig.scheduler.figures()
        assert set(figures.breaker_phases.values()) == {BreakerPhase.CLOSED}
        assert {p.error_share for p in figures.snapshot.placements} == {0.0}
        rig.assert_all_over()


@pytest.mark.parametrize("answers", [(Fail(kind=FailureKind.BAD_REQUEST),), (Finish(),)])
def test_a_server_that_rejects_what_another_takes_leaves_service(
    answers: tuple[Step, ...],
) -> None:
    @in_virtual_time
    async def run() -> None:
        await rejects(answers)

    run()


async def rejects(answers: tuple[Step, ...]) -> None:
    scripts = two(ScriptedUpstream(answers), ScriptedUpstream(GOOD))
    async with running(scripts) as rig:
        for number in range(30):
            made = generation(f"r{number}", input=f"prompt {number}")
            assert (await answer(rig, call(made))).text == "one two"
        assert rig.order.count("own/a") == 2
        figures = await rig.scheduler.figures()
        assert figures.breaker_phases["own/a"] is BreakerPhase.OPEN
        assert figures.breaker_phases["own/b"] is BreakerPhase.CLOSED
        report = rig.scheduler.core.admission_report("own/a", asyncio.get_running_loop().time())
        assert "another placement took the same request" in report.reason
        rig.assert_all_over()


@in_virtual_time
async def test_an_empty_answer_that_two_servers_give_is_the_models_word() -> None:
    empty = ScriptedUpstream((Finish(),))
    async with running(two(empty, empty)) as rig:
        for number in range(6):
            received = await answer(rig, call(generation(f"r{number}", input=f"{number}")))
            assert received.finished is not None
            assert received.text == ""
        assert len(rig.order) <= 6 + 4
        figures = await rig.scheduler.figures()
        assert set(figures.breaker_phases.values()) == {BreakerPhase.CLOSED}
        rig.assert_all_over()


@in_virtual_time
async def test_a_request_that_fails_two_servers_that_serve_others_ends_and_is_refused() -> None:
    """Honest requests pass before, between and after: no breaker opens, nobody else is hurt."""

    poisoned = Poisoned.poisoned = []
    names = ("own/a", "own/b", "own/c", "own/d")
    async with running({name: Poisoned(GOOD) for name in names}) as rig:
        for number in range(20):
            honest = call(generation(f"h{number}", input=f"prompt {number}"))
            assert (await answer(rig, honest)).text == "one two"
            if number >= 4:  # each server has served others by now
                poison = call(generation(f"p{number}", input="poison"))
                error = await refusal(rig, poison)
                assert error.reason is RefusalReason.QUARANTINED
                assert error.retry_after_s is None
                assert "change it" in error.message
        assert len(poisoned) == 2, "no third victim, and the client's retries reach none"
        figures = await rig.scheduler.figures()
        assert set(figures.breaker_phases.values()) == {BreakerPhase.CLOSED}
        assert all(p.error_share == pytest.approx(0.0) for p in figures.snapshot.placements)
        rig.assert_all_over()
