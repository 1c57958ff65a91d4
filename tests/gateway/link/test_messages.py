"""Every message arrives as it was sent, times as durations; other bytes are an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway.link.wire.messages import (
    PAYLOADS,
    WIRE_VERSION,
    AdapterMissing,
    FleetUpdate,
    KeyUses,
    Kind,
    LinkError,
    PlacementRefused,
    PlacementSilent,
    PromptCounted,
    check_version,
    decode,
    decode_value,
    encode,
    encode_value,
    fleet_update,
    view_of_update,
    with_durations,
    with_times,
)
from gateway.link.wire.resume import BranchState, EndedAttempt, FrontCopy, RequestState, Standing
from gateway.scheduling.budget_admission import Reservation
from gateway.scheduling.resumption import RememberedKey
from scheduler.contract import Evict, PlacementKind, Progress, RefusalReason, Refuse, Start
from scheduler.fleet_view import PlacementView, fleet_view
from scheduler.limits.rate_limit import RateLevel, RateLimits
from scheduler.port import CountPrompt, RequestEnded, Settled, SlotFreed, Started, Waiting
from scheduler.prefix.token_blocks import TokenBlocks
from tests.gateway.scheduling.scheduling_made import (
    attempt_end,
    config,
    running,
    settings_of,
    submission,
)
from tests.scheduler.requests_made import request

VIEW = PlacementView(
    name="own/a",
    kind=PlacementKind.SELF_HOSTED,
    model="moe",
    pool="own",
    replica="a",
    group="own/a",
    address="http://own-a",
    upstream_model="m",
    serving=True,
    reason="test",
    context_tokens=None,
    adapters=frozenset({"lora"}),
)


RESERVATION = Reservation(
    lease_id="lease",
    reserved_nano_usd=5,
    charge_limit_nano_usd=None,
    unsupported_by=frozenset({"far"}),
)


REMEMBERED = RememberedKey(
    key_id="k",
    idempotency_key="once",
    tenant="team",
    client_id="r",
    left_s=600.0,
    has_output=False,
)


LEVEL = RateLevel(key_id="k", requests=5.0, requests_ago_s=1.0, tokens=None, tokens_ago_s=0.0)


def state() -> RequestState:
    """A request of which one attempt has ended and another one runs."""
    start = Start(
        request_id="r",
        attempt=2,
        placement="own/a",
        kind=PlacementKind.SELF_HOSTED,
        reason="test",
        predicted_ttft_s=None,
        predicted_tpot_s=None,
    )
    ended = EndedAttempt(start=start, started_ago_s=2.0, end=attempt_end("r"))
    branch = BranchState(
        number=3,
        submission=submission("r"),
        standing=Standing.RUNNING,
        start=start,
        started_ago_s=1.5,
        output_tokens=7,
        ended=(ended,),
        had_attempts=True,
    )
    return RequestState(
        branches=(branch,),
        admitted=True,
        attempts=2,
        charged=(5, None),
        reservation=RESERVATION,
        may_have_output=True,
        ended=RequestEnded(request_id="r", used_tokens=5, keep_idempotency_key=True),
    )


async def answers() -> dict[type, Any]:
    """Answers of a scheduler, by type."""
    made = running(settings_of(config()))
    asked = submission(
        "r1",
        idempotency_key="key",
        key_limits=RateLimits(requests_per_minute=5),
        wants_decision=True,
        prefix_blocks=(1, 2**63 + 5),
        token_blocks=(TokenBlocks(block_tokens=16, names=(2**64 - 1, 0)),),
        remote_classes=frozenset({"eu", "us"}),
    )
    first = await made.submit(asked)
    second = await made.submit(submission("r2"))
    made.end("r1")
    found = {type(answer): answer for answer in (*second, *first)}
    return {**found, type(asked): asked}


async def test_every_message_arrives_as_it_was_sent() -> None:
    found = await answers()
    made: list[tuple[Kind, Any]] = [
        (Kind.SUBMIT, next(a for t, a in found.items() if t.__name__ == "Submission")),
        (Kind.PROMPT_COUNTED, PromptCounted(request_id="r", prompt_tokens=None)),
        (Kind.PROGRESS, Progress(request_id="r", attempt=1, output_tokens=5)),
        (Kind.ATTEMPT_END, attempt_end("r")),
        (
            Kind.REQUEST_ENDED,
            RequestEnded(request_id="r", used_tokens=1, keep_idempotency_key=True),
        ),
        (Kind.SLOT_FREED, SlotFreed(key_id="k")),
        (Kind.WITHDRAWN, None),
        (Kind.PLACEMENT_REFUSED, PlacementRefused(placement="own/a", reason="no")),
        (Kind.PLACEMENT_SILENT, PlacementSilent(placement="own/a")),
        (Kind.STARTED, found[Started]),
        (
            Kind.REFUSE,
            Refuse(request_id="r", reason=RefusalReason.SHED, message="full", retry_after_s=None),
        ),
        (Kind.EVICT, Evict(request_id="r", attempt=1, reason="late")),
        (Kind.WAITING, found[Waiting]),
        (Kind.COUNT_PROMPT, CountPrompt(request_id="r")),
        (Kind.SETTLED, found[Settled]),
        (Kind.ADAPTER_MISSING, AdapterMissing(placement="own/a")),
        (
            Kind.FLEET,
            FleetUpdate(
                placements=(VIEW,), token_block_sizes={"moe": (16, 32)}, bases={"lora": "moe"}
            ),
        ),
        (Kind.FAIL, "no"),
        (Kind.RESUME, state()),
        (Kind.LEAVING, None),
        (Kind.RECEIVED, None),
        (Kind.RESERVED, RESERVATION),
        (Kind.DISMISSED, "old"),
        (Kind.LEVELS, (LEVEL,)),
        (Kind.KEYS, KeyUses(used=(REMEMBERED,), freed=(("k", "other"),))),
        (Kind.KEPT, None),
        (
            Kind.FRONT_COPY,
            FrontCopy(front="a", term=2, requests=(state(),), progress=((3, 1, 5),), over=(4,)),
        ),
        (Kind.FORGET_FRONT, "a"),
    ]
    assert found[Started].decision is not None
    sent = [(kind, number, payload) for number, (kind, payload) in enumerate(made)]
    assert list(decode(encode(sent))) == sent
    assert {kind for kind, _ in made} == PAYLOADS.keys() - {Kind.CALL, Kind.RETURN}


def test_a_view_with_adapters_arrives_as_it_was() -> None:
    bases = {"lora": "moe"}
    view = fleet_view((VIEW,), {"moe": (16,)}, lambda model: bases.get(model, model))
    assert view.of_model("lora") == (VIEW,)
    [(_, _, update)] = decode(encode([(Kind.FLEET, 0, fleet_update(view))]))
    assert view_of_update(update) == view


def test_times_travel_as_durations() -> None:
    asked = request("r", arrival_s=90.0, deadline_s=130.0)
    travelling = with_durations(asked, 100.0)
    assert (travelling.arrival_s, travelling.deadline_s) == (-10.0, 30.0)
    arrived = with_times(travelling, 7000.0)
    assert (arrived.arrival_s, arrived.deadline_s) == (6990.0, 7030.0)


def test_a_newer_message_is_left_out_and_a_newer_field_too() -> None:
    newer: Any = {"request_id": "r", "attempt": 1, "output_tokens": 2, "newer": [1]}
    unknown: Any = 99
    frame = encode([(Kind.PROGRESS, 1, newer), (unknown, 1, "?")])
    [(kind, _, payload)] = decode(frame)
    assert (kind, payload) == (
        Kind.PROGRESS,
        Progress(request_id="r", attempt=1, output_tokens=2),
    )


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        encode([(Kind.PROGRESS, 1, {"request_id": 5})]),
        encode([(Kind.PROGRESS, 1, None)]),
        encode([(Kind.PROGRESS, 1, Progress(request_id="r", attempt=1, output_tokens=2))])[:-1],
        b"\x91" * 5000,
    ],
)
def test_other_bytes_are_an_error(frame: bytes) -> None:
    with pytest.raises(LinkError):
        list(decode(frame))


def test_values_of_calls() -> None:
    assert decode_value(encode_value(np.float64(1.5)), float) == 1.5
    with pytest.raises(LinkError, match="a value of"):
        decode_value(encode_value("x"), int)
    with pytest.raises(TypeError, match="cannot be sent"):
        encode_value(object())


def test_versions_may_differ_by_one() -> None:
    for version in (WIRE_VERSION - 1, WIRE_VERSION, WIRE_VERSION + 1):
        check_version(version)
    with pytest.raises(LinkError, match="upgrade by one version at a time"):
        check_version(WIRE_VERSION + 2)
