"""The wanted counts of replicas over the link between a gateway of a cluster and its leader, which
alone sees the demand of all. What cannot be told travels as a value, because what a call raises is
only logged there."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.link.wire.connection import CallFailed, Connection, Handler, LinkLost
from gateway.link.wire.messages import LinkError
from gateway.scheduling.replica_counts import NotMeasured, ReplicaCounts, UnknownPool
from scheduler.overflow.replica_count import ReplicaLimits, WantedReplicas

_WANTED, _WAITS = "replicas.wanted", "replicas.waits"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, or why it cannot be told."""

    wanted: WantedReplicas | None = None
    waits: bool = False
    unknown_pool: str | None = None
    not_measured: str | None = None

    def checked(self) -> Answer:
        """Raises UnknownPool and NotMeasured."""
        if self.unknown_pool is not None:
            raise UnknownPool(self.unknown_pool)
        if self.not_measured is not None:
            raise NotMeasured(self.not_measured)
        return self


def replica_count_handlers(counts: ReplicaCounts) -> dict[str, Handler]:
    """Returns the calls that the gateways of a cluster may make."""

    async def wanted(asked: tuple[str, ReplicaLimits]) -> Answer:
        try:
            return Answer(wanted=await counts.wanted(*asked))
        except UnknownPool as error:
            return Answer(unknown_pool=str(error))
        except NotMeasured as error:
            return Answer(not_measured=str(error))

    async def waits(pool: str) -> Answer:
        try:
            return Answer(waits=await counts.waits(pool))
        except UnknownPool as error:
            return Answer(unknown_pool=str(error))

    return {_WANTED: (tuple[str, ReplicaLimits], wanted), _WAITS: (str, waits)}


class RemoteReplicaCounts:
    """The counts at a gateway of a cluster. `connection`: its link to the leader."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection

    async def wanted(self, pool: str, limits: ReplicaLimits) -> WantedReplicas:
        """See `ReplicaCounts`. Raises NotMeasured while there is no leader."""
        answer = await self._asked(_WANTED, (pool, limits))
        assert answer.wanted is not None
        return answer.wanted

    async def waits(self, pool: str) -> bool:
        """See `ReplicaCounts`. Raises NotMeasured while there is no leader."""
        return (await self._asked(_WAITS, pool)).waits

    async def _asked(self, call: str, arguments: object) -> Answer:
        try:
            answer: Answer = await self._connection().call(call, arguments, Answer)
        except (LinkLost, CallFailed, LinkError) as error:
            raise NotMeasured(f"the leader cannot be asked now: {error}") from None
        return answer.checked()
