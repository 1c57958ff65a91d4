"""Messages of the scheduler port on a wire, and their encoding.

A frame is a msgpack array of messages, and a message is an array of its kind, a number and its
payload. The number names the branch of a submission and of every answer to it, or the call of a
question and its answer. Payloads are maps from field names, so that a field may be added with a
default. Durations travel, clocks do not: the two times of a `Request` are seconds from the moment
of sending.

Bytes come from another process, which may be of another version or broken: whatever they are,
`decode` returns messages or raises `LinkError`. A message of an unknown kind is left out.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from gateway.link.wire.resume import FrontCopy, RequestState
from gateway.scheduling.budget_admission import Reservation
from gateway.scheduling.resumption import RememberedKey
from scheduler.contract import Evict, Progress, Refuse, Request
from scheduler.fleet_view import FleetView, PlacementView, fleet_view
from scheduler.limits.rate_limit import RateLevel
from scheduler.port import (
    AttemptEnd,
    CountPrompt,
    RequestEnded,
    Settled,
    SlotFreed,
    Started,
    Submission,
    Waiting,
)

WIRE_VERSION = 4
"""Version of the messages. Two processes may differ by one: the newer one knows both."""
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Largest frame. A submission of a prompt of a million tokens takes about 1 MB of block names."""


class LinkError(Exception):
    """The other process sent something that is no message, or is of a version that does not fit."""


class Kind(enum.IntEnum):
    """Kind of a message. Numbers are part of the wire: they are never used again."""

    CALL = 1
    RETURN = 2
    FAIL = 3
    SUBMIT = 10
    PROMPT_COUNTED = 11
    PROGRESS = 12
    ATTEMPT_END = 13
    REQUEST_ENDED = 14
    SLOT_FREED = 15
    WITHDRAWN = 16
    """The submission with this number is taken back: no attempt has reached an upstream. The
    payload is the number of the report."""
    PLACEMENT_REFUSED = 17
    PLACEMENT_SILENT = 18
    ADAPTER_MISSING = 19
    RESUME = 20
    """A request that the front has when it joins; `gateway/link/wire/resume.py`."""
    LEAVING = 21
    """The front ends, and will not come back."""
    STARTED = 30
    REFUSE = 31
    EVICT = 32
    WAITING = 33
    COUNT_PROMPT = 34
    SETTLED = 35
    FLEET = 36
    RECEIVED = 37
    """All reports up to this number have taken effect, and are kept where they belong."""
    RESERVED = 38
    """What the request of this branch holds of its budgets."""
    DISMISSED = 39
    """The front must end, for this reason."""
    KEYS = 40
    """Idempotency keys of other fronts' requests, kept for the next scheduler. Since version 3."""
    LEVELS = 41
    """How full the buckets of keys are, kept for the next scheduler. Since version 3."""
    KEPT = 42
    """The front keeps what `KEYS` up to this number have told. Since version 4."""
    FRONT_COPY = 43
    """What the leader's own front has, kept for the next leader. A front that joins tells it
    before `resumed`. Since version 4."""
    FORGET_FRONT = 44
    """The copy of this front is needed no more. Since version 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A question. `name`: what is asked; `argument`: its argument, encoded."""

    name: str
    argument: msgspec.Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCounted:
    """See `SchedulerPort.prompt_counted`."""

    request_id: str
    prompt_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRefused:
    """A self-hosted placement refused the connection."""

    placement: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSilent:
    """A self-hosted placement brought no token in time."""

    placement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterMissing:
    """A self-hosted placement does not have an adapter that it had."""

    placement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetUpdate:
    """A new view of the fleet, which replaces the one before. `bases`: base model of each
    adapter. `version`: of this scheduler's views, rising. `drained`: what an operator has
    drained."""

    placements: tuple[PlacementView, ...]
    token_block_sizes: dict[str, tuple[int, ...]]
    bases: dict[str, str]
    version: int = 0
    drained: tuple[str, ...] = ()


def fleet_update(view: FleetView, version: int = 0, drained: Iterable[str] = ()) -> FleetUpdate:
    """Returns the message of a view."""
    return FleetUpdate(
        version=version,
        drained=tuple(sorted(drained)),
        placements=view.placements,
        token_block_sizes=dict(view.token_block_sizes),
        bases=dict(view.bases),
    )


def view_of_update(update: FleetUpdate) -> FleetView:
    """Returns the view of a message."""
    bases = update.bases
    return fleet_view(
        update.placements, update.token_block_sizes, lambda model: bases.get(model, model)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First call of a front on each connection. `version`: of its messages; `number`: its number,
    from 1. What it has follows as `RESUME`, and at last the call `resumed`."""

    version: int
    number: int
    incarnation: str = ""
    """New with each start of the front's process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Answer to `Hello`. `fleet`: the newest view. `setting`: what the front's process needs to
    start, encoded by whoever started it."""

    version: int
    fleet: FleetUpdate
    setting: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUses:
    """Changes of idempotency keys. `used`: keys that are in use or remembered; `freed`: keys that
    are free, as id of the API key and value."""

    used: tuple[RememberedKey, ...] = ()
    freed: tuple[tuple[str, str], ...] = ()


PAYLOADS: dict[Kind, Any] = {
    Kind.CALL: Call,
    Kind.RETURN: msgspec.Raw,
    Kind.FAIL: str,
    Kind.SUBMIT: Submission,
    Kind.PROMPT_COUNTED: PromptCounted,
    Kind.PROGRESS: Progress,
    Kind.ATTEMPT_END: AttemptEnd,
    Kind.REQUEST_ENDED: RequestEnded,
    Kind.SLOT_FREED: SlotFreed,
    Kind.WITHDRAWN: int | None,
    Kind.PLACEMENT_REFUSED: PlacementRefused,
    Kind.PLACEMENT_SILENT: PlacementSilent,
    Kind.ADAPTER_MISSING: AdapterMissing,
    Kind.RESUME: RequestState,
    Kind.LEAVING: None,
    Kind.RECEIVED: None,
    Kind.RESERVED: Reservation,
    Kind.DISMISSED: str,
    Kind.KEYS: KeyUses,
    Kind.LEVELS: tuple[RateLevel, ...],
    Kind.KEPT: None,
    Kind.FRONT_COPY: FrontCopy,
    Kind.FORGET_FRONT: str,
    Kind.STARTED: Started,
    Kind.REFUSE: Refuse,
    Kind.EVICT: Evict,
    Kind.WAITING: Waiting,
    Kind.COUNT_PROMPT: CountPrompt,
    Kind.SETTLED: Settled,
    Kind.FLEET: FleetUpdate,
}
ANSWERS: dict[type, Kind] = {
    Started: Kind.STARTED,
    Refuse: Kind.REFUSE,
    Evict: Kind.EVICT,
    Waiting: Kind.WAITING,
    CountPrompt: Kind.COUNT_PROMPT,
    Settled: Kind.SETTLED,
}
REPORTS: dict[type, Kind] = {
    Progress: Kind.PROGRESS,
    AttemptEnd: Kind.ATTEMPT_END,
    RequestEnded: Kind.REQUEST_ENDED,
    SlotFreed: Kind.SLOT_FREED,
}

LinkMessage = tuple[Kind, int, Any]
"""Kind, number and payload."""


def _plain(value: Any) -> Any:
    """Converts a scalar of numpy. Raises TypeError for anything else that msgpack does not know."""
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} cannot be sent")
    return item()


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_frames = msgspec.msgpack.Decoder(list[tuple[int, int, msgspec.Raw]])
_payloads = {kind: msgspec.msgpack.Decoder(type_) for kind, type_ in PAYLOADS.items()}
_kinds = {int(kind): kind for kind in Kind}


def encode(messages: Sequence[LinkMessage]) -> bytes:
    """Encodes messages as one frame, without its length."""
    return _encoder.encode(messages)


def decode(frame: bytes | memoryview) -> Iterable[LinkMessage]:
    """Decodes a frame. Raises LinkError."""
    try:
        for number, branch, raw in _frames.decode(frame):
            kind = _kinds.get(number)
            if kind is not None:
                yield kind, branch, _payloads[kind].decode(raw)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise LinkError(f"a frame of {len(frame)} bytes: {str(error)[:200]}") from error


def encode_value(value: Any) -> msgspec.Raw:
    """Encodes the argument or the answer of a call."""
    return msgspec.Raw(_encoder.encode(value))


def decode_value(raw: msgspec.Raw, type_: Any) -> Any:
    """Decodes the argument or the answer of a call. Raises LinkError."""
    try:
        return msgspec.msgpack.decode(raw, type=type_)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise LinkError(f"a value of {len(raw)} bytes: {str(error)[:200]}") from error


def with_durations(request: Request, now: float) -> Request:
    """Replaces the times of a request by seconds from `now`, as they travel."""
    return msgspec.structs.replace(
        request, arrival_s=request.arrival_s - now, deadline_s=request.deadline_s - now
    )


def with_times(request: Request, now: float) -> Request:
    """Replaces the seconds that have travelled by times of the receiver's clock, which says
    `now`."""
    return msgspec.structs.replace(
        request, arrival_s=request.arrival_s + now, deadline_s=request.deadline_s + now
    )


def submission_with_times(submission: Submission, now: float) -> Submission:
    """Does so with the request of a submission."""
    return msgspec.structs.replace(submission, request=with_times(submission.request, now))


def state_with_times(state: RequestState, now: float) -> RequestState:
    """Does so with all that is told of a request."""
    return replace(
        state,
        branches=tuple(
            replace(branch, submission=submission_with_times(branch.submission, now))
            for branch in state.branches
        ),
    )


def check_version(version: int) -> None:
    """Raises LinkError if messages of a peer's version cannot be understood."""
    if abs(version - WIRE_VERSION) > 1:
        text = f"the other process speaks version {version}, this one {WIRE_VERSION}"
        raise LinkError(f"{text}: upgrade by one version at a time")
