"""Times and groups of requests for reports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.accounting.rollups.calendar import HOUR_US
from gateway.accounting.rollups.spend import Group
from gateway.doors.grpc import errors
from gateway.doors.grpc.times import microseconds_of
from moegate.v1 import usage_pb2

GROUPS = {
    usage_pb2.SPEND_GROUP_TENANT: Group.TENANT,
    usage_pb2.SPEND_GROUP_KEY: Group.KEY,
    usage_pb2.SPEND_GROUP_MODEL: Group.MODEL,
    usage_pb2.SPEND_GROUP_HOUR: Group.HOUR,
    usage_pb2.SPEND_GROUP_DAY: Group.DAY,
    usage_pb2.SPEND_GROUP_WEEK: Group.WEEK,
    usage_pb2.SPEND_GROUP_PLACEMENT: Group.PLACEMENT,
    usage_pb2.SPEND_GROUP_SESSION: Group.SESSION,
    usage_pb2.SPEND_GROUP_MONTH: Group.MONTH,
    usage_pb2.SPEND_GROUP_YEAR: Group.YEAR,
    usage_pb2.SPEND_GROUP_POOL: Group.POOL,
    usage_pb2.SPEND_GROUP_KIND: Group.KIND,
    usage_pb2.SPEND_GROUP_END_USER: Group.END_USER,
    usage_pb2.SPEND_GROUP_LABEL: Group.LABEL,
}
TIMES = (Group.HOUR, Group.DAY, Group.WEEK, Group.MONTH, Group.YEAR)


class WindowRequest(Protocol):
    """A request with a window; its `from` is a keyword of Python."""

    @property
    def to(self) -> Timestamp:
        """The end."""

    def HasField(self, name: str, /) -> bool:  # protobuf's name
        """Whether a time is given."""


def groups_of(numbers: Sequence[usage_pb2.SpendGroup], most: int) -> list[Group]:
    """The groups of a request. Raises RpcError (INVALID_ARGUMENT)."""
    if len(numbers) > most:
        raise errors.invalid([("group_by", f"{len(numbers)} groups: at most {most}")])
    groups: list[Group] = []
    for i, number in enumerate(numbers):
        group = GROUPS.get(number)
        if group is None or group in groups:
            raise errors.invalid([(f"group_by[{i}]", f"{number}: no group, or there twice")])
        groups.append(group)
    return groups


def window_of(request: WindowRequest, span_s: float | None) -> tuple[int, int]:
    """Returns `from` and `to` of the request in Unix microseconds. An absent `to` means now. An
    absent `from` means `span_s` before the end; None: the oldest row. Raises RpcError
    (INVALID_ARGUMENT)."""
    given: dict[str, int] = {}
    faults = []
    for name in ("from", "to"):
        if request.HasField(name):
            try:
                given[name] = microseconds_of(getattr(request, name))
            except ValueError as error:
                faults.append((name, str(error)))
    if faults:
        raise errors.invalid(faults)
    to_us = given.get("to", round(time.time() * 1e6))
    first_us = min(0, to_us) if span_s is None else to_us - round(span_s * 1e6)
    from_us = given.get("from", first_us)
    if from_us > to_us:
        end = "`to`" if "to" in given else "`to`, which is now"
        raise errors.invalid([("from", f"later than {end}: give an earlier time")])
    return from_us, to_us


def whole_hours_of(request: WindowRequest, span_s: float) -> tuple[int, int]:
    """The window in hours since 1970. The present hour counts whole. Raises RpcError
    (INVALID_ARGUMENT) where a time that is given is no whole hour."""
    from_us, to_us = window_of(request, span_s)
    for name, at_us in (("from", from_us), ("to", to_us)):
        if request.HasField(name) and at_us % HOUR_US:
            raise errors.invalid([(name, "not a whole hour (UTC): accounts are kept by the hour")])
    return from_us // HOUR_US, -(-to_us // HOUR_US)
