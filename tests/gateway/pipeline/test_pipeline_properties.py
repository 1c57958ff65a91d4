"""Whatever upstreams and clients do, in whatever order: every request ends once, every attempt is
settled once, and the output of an answer that ends well is whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.limits import LimitsConfig
from gateway.config.remote import FailuresConfig, HedgingConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestRefused
from gateway.upstream.scripted import (
    Fail,
    Finish,
    Hang,
    Output,
    ScriptedUpstream,
    Sleep,
    Step,
    Turns,
)
from scheduler.port import BranchKind
from tests.gateway.pipeline.rig import (
    REMOTE,
    Received,
    Rig,
    call,
    evict,
    generation,
    receive,
    running,
)
from tests.virtual_time import in_virtual_time

PATIENCE_S = 60.0
"""More than any answer takes that comes at all."""
TIMES_S = st.sampled_from([0.0, 0.5, 0.5 + 1e-10, 1.0, 2.0])
"""Few values, so that events meet; two of them are one moment for the loop."""
NAMES = ("own/a", "own/b", REMOTE)
Script = tuple[Step, ...]


@dataclass(frozen=True)
class Asked:
    """A request. `leaves_s`: when its client goes away, after it came; None: it is patient.
    `cancels`: how often its task is cancelled then, once a turn of the loop.
    `evicted_s`: when the scheduler takes its attempts back."""

    starts_s: float
    leaves_s: float | None
    cancels: int
    evicted_s: float | None
    whole_answer: bool
    remaining_s: float | None


PIECES = st.one_of(
    st.builds(Output, text=st.just("text"), tokens=st.integers(1, 3)),
    st.sampled_from([Output(tokens=0), Output(tokens=1), Output(reasoning_text="hm")]),
    st.builds(Sleep, seconds=TIMES_S),
    st.builds(Turns, turns=st.integers(1, 3)),
)
ENDS = st.one_of(
    st.just(Finish()),
    st.builds(Fail, kind=st.just(FailureKind.SERVER_ERROR) | st.sampled_from(FailureKind)),
    st.just(Hang()),
)
SCRIPTS = st.builds(lambda pieces, end: (*pieces, end), st.lists(PIECES, max_size=5), ENDS)
UPSTREAMS = st.lists(st.lists(SCRIPTS, min_size=1, max_size=3), min_size=1, max_size=3)
ASKED = st.builds(
    Asked,
    starts_s=TIMES_S,
    leaves_s=st.none() | TIMES_S,
    cancels=st.integers(1, 3),
    evicted_s=st.none() | TIMES_S,
    whole_answer=st.booleans(),
    remaining_s=st.sampled_from([None, 1.5]),
)
FAILURES = st.builds(
    FailuresConfig,
    continue_cut_answers=st.booleans(),
    hedging=st.sampled_from([None, HedgingConfig(after_s=0.5, share=1.0)]),
)


def labelled(script: Script, label: str) -> Script:
    """The script with texts that no other script has."""
    return tuple(
        replace(step, text=f"{label}.{i} ") if isinstance(step, Output) and step.text else step
        for i, step in enumerate(script)
    )


def said(*scripts: Script) -> tuple[str, int]:
    """Text and tokens of scripts, one after the other."""
    pieces = [step for script in scripts for step in script if isinstance(step, Output)]
    return "".join(piece.text for piece in pieces), sum(piece.tokens for piece in pieces)


def check_output(asked: Asked, received: Received, scripts: Sequence[Script]) -> None:
    """The client has the output of one script, after that of another that broke off, if any."""
    good = [script for script in scripts if isinstance(script[-1], Finish)]
    cut = [script for script in scripts if isinstance(script[-1], Fail)]
    if received.finished is None:
        longest = [said(script) for script in scripts]
        longest += [said(first, second) for first in cut for second in scripts]
        assert any(text.startswith(received.text) for text, _ in longest)
        # One that leaves at the moment at which the answer comes may have it without its account.
        assert not (asked.whole_answer and received.chunks) or asked.leaves_s is not None
    else:
        if received.finished.broken:
            whole = [said(first, second) for first in cut for second in good]
        else:
            whole = [said(script) for script in good]
        assert (received.text, received.finished.usage.completion_tokens) in whole


async def one_client(rig: Rig, request_id: str, asked: Asked, received: Received) -> None:
    await asyncio.sleep(asked.starts_s)
    request = call(
        generation(request_id, max_output_tokens=50),
        whole_answer=asked.whole_answer,
        remaining_s=asked.remaining_s,
    )
    task = asyncio.create_task(receive(rig.pipeline, request, received))
    if asked.evicted_s is not None:
        await asyncio.sleep(asked.evicted_s)
        for branch in rig.branches(f"key/{request_id}"):
            if branch.start is not None:
                evict(rig, branch.start.attempt, request_id)
    await asyncio.wait({task}, timeout=PATIENCE_S if asked.leaves_s is None else asked.leaves_s)
    for _ in range(asked.cancels):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        assert isinstance(error, RequestRefused | PartialOutput | UpstreamFailure), repr(error)


@settings(deadline=None, max_examples=150)
@given(
    drawn=UPSTREAMS,
    asked=st.lists(ASKED, min_size=1, max_size=3),
    failures=FAILURES,
    max_running=st.integers(1, 3),
)
def test_every_request_ends_once_and_no_output_is_lost_or_doubled(
    drawn: list[list[Script]], asked: list[Asked], failures: FailuresConfig, max_running: int
) -> None:
    named = {
        name: [labelled(script, f"{name}.{i}") for i, script in enumerate(scripts)]
        for name, scripts in zip(NAMES, drawn, strict=False)
    }
    scripts = [script for of_one in named.values() for script in of_one]

    @in_virtual_time
    async def run() -> None:
        upstreams = {name: ScriptedUpstream(*of_one) for name, of_one in named.items()}
        limits = LimitsConfig(attempts=3)
        async with running(
            upstreams, failures=failures, limits=limits, max_running=max_running
        ) as rig:
            received = [Received() for _ in asked]
            clients = [
                one_client(rig, f"r{i}", *pair)
                for i, pair in enumerate(zip(asked, received, strict=True))
            ]
            await asyncio.gather(*clients)
            rig.assert_all_over()
            originals = [
                submission.request.request_id
                for submission in rig.scheduler.submissions
                if submission.kind is BranchKind.ORIGINAL
            ]
            ended = [end.request_id for end in rig.scheduler.request_ends]
            assert sorted(ended) == sorted(originals)
        for one, got in zip(asked, received, strict=True):
            check_output(one, got, scripts)

    run()
