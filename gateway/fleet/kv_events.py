"""Subscribes to the KV events of self-hosted engines over ZMQ: what their prefix caches hold.

One subscription per data-parallel rank. Batches are numbered from 0 at the start of an engine. A
missing number means that changes may have been lost: the contents of that cache become unknown, or
the engine is asked to replay them where it can. A lower number means that the engine has restarted.
An engine that is silent has nothing to report. ZMQ reconnects by itself, with growing delays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import zmq
import zmq.asyncio

from gateway.config.engines import KvEventsConfig
from gateway.config.gateway import PoolConfig
from gateway.fleet.adapters import adapter_names
from gateway.fleet.keyed_tasks import KeyedTasks
from gateway.fleet.placement_names import placement_names
from gateway.upstream.vllm.kv_event_format import SLICE_BLOCKS, BadEvents, EventReader
from scheduler.prefix.token_blocks import CacheChange, CacheEvents, CacheReset

log = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Batches that may wait to be read. Later ones are lost, and found missing by their numbers."""
MOST_BYTES = 16 * 1024 * 1024
"""Largest message; a larger one ends the connection."""
RECONNECT_MS, LONGEST_RECONNECT_MS = 500, 10_000
HEARTBEAT_MS, DEAD_AFTER_MS = 10_000, 30_000
"""Heartbeats find a peer that vanished without closing its connection; ZMQ then reconnects."""
REPLAY_WAIT_S = 5.0
"""Longest silence of an engine during a replay."""
RETRY_S = 10.0
"""Delay after a subscription failed for another reason than the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Where a replica publishes its KV events. A changed value means a new subscription."""

    placement: str
    """Name of the replica, and the first part of the names of its pinned ranks."""
    pinned: bool
    host: str
    ranks: int
    settings: KvEventsConfig
    port: int
    """Port of the first rank; each further rank has the next one."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Clients' names of LoRA adapters, by those of the engine."""

    @property
    def replay_port(self) -> int | None:
        """Replay port of the first rank: as far from `port` as in the settings of the pool."""
        if self.settings.replay_port is None:
            return None
        return self.settings.replay_port + self.port - self.settings.port


def publisher(
    pool: PoolConfig, placement: str, url: str, port: int | None = None
) -> Publisher | None:
    """Where the replica at `url` publishes; None: its pool has no KV events. `port`: its own, where
    it differs from the port of the pool."""
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
        adapters={served: name for name, served in adapter_names(pool).items()},
    )


class KvEventsListener:
    """Subscribes to every rank of every publisher.

    `report` is called with each change, in the order of the events. Where a publisher is removed,
    it is told that the contents of that cache are unknown from now on.
    """

    def __init__(self, report: Callable[[CacheEvents], None]) -> None:
        self._report = report
        self._publishers: dict[str, Publisher] = {}
        self._context: zmq.asyncio.Context | None = None
        self._subscriptions: KeyedTasks[tuple[str, int], Publisher] = KeyedTasks(
            "moegate-kv", self._follow
        )

    def apply(self, publishers: Iterable[Publisher]) -> None:
        """Makes these the publishers that are listened to; unchanged subscriptions go on."""
        wanted = {(p.placement, rank): p for p in publishers for rank in range(p.ranks)}
        known = self._publishers
        self._publishers = {p.placement: p for p in wanted.values()}
        self._subscriptions.apply(wanted)
        if not self._subscriptions.running:
            return
        unknown = CacheReset(known=False, emptied=False)
        for placement in known.keys() - self._publishers.keys():
            for rank in range(known[placement].ranks):
                self._report(_cache_events(known[placement], rank, unknown))

    async def run(self) -> None:
        """Listens until cancelled."""
        try:
            await self._subscriptions.run()
        finally:
            if self._context is not None:
                self._context.destroy(linger=0)
                self._context = None

    async def _follow(self, key: tuple[str, int], publisher: Publisher) -> None:
        if self._context is None:
            self._context = zmq.asyncio.Context()
        await RankSubscription(publisher, key[1], self._report, self._context).follow()


class RankSubscription:
    """The subscription to one data-parallel rank of one publisher."""

    def __init__(
        self,
        publisher: Publisher,
        number: int,
        report: Callable[[CacheEvents], None],
        context: zmq.asyncio.Context,
    ) -> None:
        self.number = number
        self.dropped = 0
        """Messages that were not understood."""
        self._publisher = publisher
        self._report = report
        self._context = context
        self._reader = EventReader(publisher.adapters)
        self._next = 0

    def __str__(self) -> str:
        return f"{self._publisher.placement} rank {self.number}"

    async def follow(self) -> None:
        """Reports changes until cancelled."""
        # An earlier replica at this place may have reported other contents.
        self._report_changes(CacheReset(known=False, emptied=False))
        while True:
            try:
                with self._socket(zmq.SUB, self._publisher.port) as subscription:
                    subscription.subscribe(self._publisher.settings.topic)
                    while True:
                        await self.read(await subscription.recv_multipart())
            except zmq.ZMQError as error:
                log.warning("%s: KV events: %s", self, error)
                await asyncio.sleep(RETRY_S)

    async def read(self, frames: list[bytes]) -> None:
        """Reads one message: topic, number, events."""
        if len(frames) != 3 or len(frames[1]) != 8:
            self._drop(f"{len(frames)} frames: not topic, number and events")
            return
        number = int.from_bytes(frames[1], "big")
        if number < self._next:
            log.info("%s: its KV events begin anew: the engine has restarted", self)
            self._next = 0
            self._report_changes(CacheReset(known=False, emptied=True))
        if number != self._next and self._publisher.replay_port is not None:
            await self._replay(number)
        await self._apply(number, frames[2])

    async def _replay(self, until: int) -> None:
        """Requests the missed batches before `until`, as far as the engine still has them."""
        while self._next < until and await self._replay_once(until):
            pass

    async def _replay_once(self, until: int) -> bool:
        """One request; returns whether another one makes sense. An engine may send faster than the
        gateway reads, and loses what does not fit into the buffer of its socket."""
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
                        if not self._next <= number < until:  # also the mark of the end
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
            self._report_changes(CacheReset(known=True, emptied=False))
        elif number != self._next:
            log.warning(
                "%s: KV events %d to %d were missed: what its cache holds is learned anew",
                *(self, self._next, number - 1),
            )
            self._report_changes(CacheReset(known=False, emptied=False))
        self._next = number + 1
        try:
            changes = self._reader.read(payload)
        except BadEvents as error:
            self._drop(str(error))
            # The batch may have reported blocks as removed.
            self._report_changes(CacheReset(known=False, emptied=False))
            return
        part: list[CacheChange] = []
        blocks = 0
        for change in changes:
            part.append(change)
            blocks += 0 if isinstance(change, CacheReset) else len(change.hashes)
            if blocks >= SLICE_BLOCKS:
                self._report_changes(*part)
                part, blocks = [], 0
                await asyncio.sleep(0)
        if part:
            self._report_changes(*part)
        await asyncio.sleep(0)  # many may wait, and reading one that waits does not yield

    def _report_changes(self, *changes: CacheChange) -> None:
        self._report(_cache_events(self._publisher, self.number, *changes))

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


def _cache_events(publisher: Publisher, rank: int, *changes: CacheChange) -> CacheEvents:
    """The changes, under the name that the scheduler knows the rank by."""
    name, ranks = publisher.placement, publisher.ranks
    if publisher.pinned:
        name, rank, ranks = placement_names(name, ranks)[rank], 0, 1
    return CacheEvents(placement=name, rank=rank, ranks=ranks, changes=changes)
