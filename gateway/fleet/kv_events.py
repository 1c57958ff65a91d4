"""Listens to what the engines of own replicas tell of their prefix caches: KV events over ZMQ.

One subscription per data-parallel rank. Batches are numbered from 0 at the start of an engine: a
number that is missing means that blocks may have gone unnoticed, so that what was known of that
cache is forgotten, or asked for again where the engine replays; a lower one means a new engine.
Silence says nothing. ZMQ connects again by itself, with growing waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import zmq
import zmq.asyncio

from gateway.config.gateway import PoolConfig
from gateway.config.kv_events import KvEventsConfig
from gateway.fleet.rank_names import rank_names
from gateway.upstream.vllm.kv_event_format import SLICE_BLOCKS, BadEvents, EventReader
from scheduler.prefix.token_blocks import CacheChange, CacheEvents, CacheReset

log = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Batches that wait to be read; later ones are lost, which is noticed."""
MOST_BYTES = 16 * 1024 * 1024
"""Of one message; a longer one ends the connection."""
RECONNECT_MS, LONGEST_RECONNECT_MS = 500, 10_000
HEARTBEAT_MS, DEAD_AFTER_MS = 10_000, 30_000
"""A peer that vanished without a word is noticed, and connected to again."""
REPLAY_WAIT_S = 5.0
"""Longest silence of an engine that is asked for what it published before."""
RETRY_S = 10.0
"""After a subscription failed for another reason than the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Where a replica publishes."""

    placement: str
    """The replica's, or what those of its pinned ranks begin with."""
    pinned: bool
    host: str
    ranks: int
    settings: KvEventsConfig
    port: int
    """Of the first rank."""

    @property
    def replay_port(self) -> int | None:
        """Of the first rank: as far from `port` as the pool's are from each other."""
        if self.settings.replay_port is None:
            return None
        return self.settings.replay_port + self.port - self.settings.port


def publisher(
    pool: PoolConfig, placement: str, url: str, port: int | None = None
) -> Publisher | None:
    """Where the replica of `url` publishes, `port` being its own; None if the pool's do not."""
    settings, host = pool.kv_events, urlsplit(url).hostname
    if settings is None or host is None:
        return None
    return Publisher(
        placement=placement,
        pinned=pool.pin_ranks,
        host=host,
        ranks=pool.data_parallel_ranks,
        settings=settings,
        port=port or settings.port,
    )


class KvEventsListener:
    """Listens to all publishers. `report` takes each change in the order of the events."""

    def __init__(
        self, publishers: Sequence[Publisher], report: Callable[[CacheEvents], None]
    ) -> None:
        self._publishers = {publisher.placement: publisher for publisher in publishers}
        self._report = report
        self._group: asyncio.TaskGroup | None = None
        self._context: zmq.asyncio.Context | None = None
        self._listening: dict[str, list[asyncio.Task[None]]] = {}

    def watch(self, found: Publisher) -> None:
        """A replica has appeared at a placement that had none."""
        self._publishers[found.placement] = found
        if self._group is not None:
            self._start(self._group, found)

    def forget(self, placement: str) -> None:
        """The replica is gone."""
        self._publishers.pop(placement, None)
        for listening in self._listening.pop(placement, ()):
            listening.cancel()

    async def run(self) -> None:
        """Listens until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for found in self._publishers.values():
                    self._start(group, found)
                await asyncio.Event().wait()  # more may appear, even where there are none yet
        finally:
            self._group = None
            if self._context is not None:
                self._context.destroy(linger=0)

    def _start(self, group: asyncio.TaskGroup, found: Publisher) -> None:
        if self._context is None:
            self._context = zmq.asyncio.Context()
        ranks = [Rank(found, rank, self._report, self._context) for rank in range(found.ranks)]
        self._listening[found.placement] = [
            group.create_task(rank.follow(), name=f"moegate-kv-{found.placement}-{rank.number}")
            for rank in ranks
        ]


class Rank:
    """The subscription to one rank."""

    def __init__(
        self,
        publisher: Publisher,
        number: int,
        report: Callable[[CacheEvents], None],
        context: zmq.asyncio.Context,
    ) -> None:
        self.number = number
        self.dropped = 0
        """Messages that were none of vLLM's."""
        self._publisher = publisher
        self._report = report
        self._context = context
        self._reader = EventReader()
        self._next = 0

    def __str__(self) -> str:
        return f"{self._publisher.placement} rank {self.number}"

    async def follow(self) -> None:
        """Follows until cancelled."""
        # Whatever an earlier replica of this place had told.
        self._tell(CacheReset(known=False, emptied=False))
        while True:
            try:
                with self._socket(zmq.SUB, self._publisher.port) as subscription:
                    subscription.subscribe(self._publisher.settings.topic)
                    while True:
                        await self.take(await subscription.recv_multipart())
            except zmq.ZMQError as error:
                log.warning("%s: KV events: %s", self, error)
                await asyncio.sleep(RETRY_S)

    async def take(self, frames: list[bytes]) -> None:
        """Takes a message: topic, number, events."""
        if len(frames) != 3 or len(frames[1]) != 8:
            self._drop(f"{len(frames)} frames: not topic, number and events")
            return
        number = int.from_bytes(frames[1], "big")
        if number < self._next:
            log.info("%s: its KV events begin anew: the engine has restarted", self)
            self._next = 0
            self._tell(CacheReset(known=False, emptied=True))
        if number != self._next and self._publisher.replay_port is not None:
            await self._replay(number)
        await self._apply(number, frames[2])

    async def _replay(self, until: int) -> None:
        """Asks for the batches before `until` that were missed, as far as the engine has them."""
        while self._next < until and await self._replay_once(until):
            pass

    async def _replay_once(self, until: int) -> bool:
        """Whether it is worth another try: an engine sends faster than is read, and what does not
        fit into its socket's buffer is lost."""
        assert self._publisher.replay_port is not None
        first = self._next
        with self._socket(zmq.DEALER, self._publisher.replay_port) as dealer:
            try:
                async with asyncio.timeout(REPLAY_WAIT_S) as limit:
                    await dealer.send_multipart([b"", first.to_bytes(8, "big")])
                    while True:
                        frames = await dealer.recv_multipart()
                        limit.reschedule(asyncio.get_running_loop().time() + REPLAY_WAIT_S)
                        number = int.from_bytes(frames[2], "big") if len(frames) == 4 else -1
                        if not self._next <= number < until:  # the end mark is beyond, too
                            return False
                        if number > self._next > first:
                            return True
                        await self._apply(number, frames[3])
            except TimeoutError:
                if self._next == first:
                    log.warning("%s: no answer from its replay port of KV events", self)
                return self._next > first

    async def _apply(self, number: int, payload: bytes) -> None:
        if number == 0:
            self._tell(CacheReset(known=True, emptied=False))
        elif number != self._next:
            log.warning(
                "%s: KV events %d to %d were missed: what its cache holds is learned anew",
                *(self, self._next, number - 1),
            )
            self._tell(CacheReset(known=False, emptied=False))
        self._next = number + 1
        try:
            changes = self._reader.read(payload)
        except BadEvents as error:
            self._drop(str(error))
            # It may have told of blocks that are gone.
            self._tell(CacheReset(known=False, emptied=False))
            return
        part: list[CacheChange] = []
        blocks = 0
        for change in changes:
            part.append(change)
            blocks += 0 if isinstance(change, CacheReset) else len(change.hashes)
            if blocks >= SLICE_BLOCKS:
                self._tell(*part)
                part, blocks = [], 0
                await asyncio.sleep(0)
        if part:
            self._tell(*part)
        await asyncio.sleep(0)  # many may wait, and reading one that waits does not

    def _tell(self, *changes: CacheChange) -> None:
        found = self._publisher
        name, rank, ranks = found.placement, self.number, found.ranks
        if found.pinned:
            name, rank, ranks = rank_names(name, ranks)[rank], 0, 1
        self._report(CacheEvents(placement=name, rank=rank, ranks=ranks, changes=changes))

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # 1, 2, 4, 8: a flood fills no log
            log.warning(
                "%s: %d bad messages of KV events so far: %s", self, self.dropped, reason[:200]
            )

    def _socket(self, kind: int, first_port: int) -> zmq.asyncio.Socket:
        host, port = self._publisher.host, first_port + self.number
        made = self._context.socket(kind)
        made.linger = 0
        made.rcvhwm = MOST_WAITING
        made.maxmsgsize = MOST_BYTES
        made.reconnect_ivl, made.reconnect_ivl_max = RECONNECT_MS, LONGEST_RECONNECT_MS
        made.heartbeat_ivl, made.heartbeat_timeout = HEARTBEAT_MS, DEAD_AFTER_MS
        if ":" in host:
            made.ipv6 = True
            host = f"[{host}]"
        made.connect(f"tcp://{host}:{port}")
        return made
