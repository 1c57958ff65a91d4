"""KV events of real ZMQ publishers on loopback, through a gateway, to what a quote expects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio

from gateway.config.engines import KvEventsConfig
from gateway.config.gateway import GatewayConfig, PoolConfig
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2
from tests import serving
from tests.dns_server import dns_server
from tests.integration.doors.test_gateway import UPSTREAM, engine
from tests.integration.engines.test_discovery import (
    FIRST,
    NAME,
    SECOND,
    fleet,
    in_service,
    until_in_service,
)
from tests.integration.engines.test_discovery import config as discovering
from tests.scheduler.kv_made import CLEARED, SIZE, batch, removed, stored
from tests.serving import METADATA, MODEL, Serving

PROMPT = tuple(range(1000, 1000 + 10 * SIZE))
TOPIC = b"kv-events"
WHOLE = 9 * SIZE
"""The engine computes at least the last token, and so the last block."""


@dataclass(slots=True)
class Publisher:
    """As vLLM's: PUB, and ROUTER for what was published before."""

    pub: zmq.asyncio.Socket
    router: zmq.asyncio.Socket
    port: int
    replay_port: int
    sent: list[tuple[int, bytes]]
    number: int = 0
    replays: int = 0
    loses: set[int] = field(default_factory=set)
    """Numbers that get lost in the next replay."""

    async def publish(self, *events: object, lost: bool = False) -> None:
        """`lost`: it is numbered and kept, but no one gets it."""
        await self.publish_raw(batch(*events), lost=lost)  # type: ignore[arg-type]

    async def publish_raw(self, payload: bytes, *, lost: bool = False) -> None:
        number, self.number = self.number, self.number + 1
        self.sent.append((number, payload))
        if not lost:
            await self.pub.send_multipart([TOPIC, number.to_bytes(8, "big"), payload])

    def restart(self) -> None:
        """The engine behind it begins anew."""
        self.number = 0
        self.sent.clear()

    async def replay(self) -> None:
        while True:
            client, _, first = await self.router.recv_multipart()
            self.replays += 1
            for number, payload in self.sent:
                if number in self.loses:
                    self.loses.remove(number)
                elif number >= int.from_bytes(first, "big"):
                    frames = [client, b"", TOPIC, number.to_bytes(8, "big"), payload]
                    await self.router.send_multipart(frames)
            await self.router.send_multipart([client, b"", b"", b"\xff" * 8, b""])


@contextlib.asynccontextmanager
async def publisher(port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[Publisher]:
    """Raises ZMQError when `port` is taken; 0 takes any."""
    with zmq.asyncio.Context() as context:
        pub, router = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
        pub.linger = router.linger = 0
        pub.xpub_verbose = True
        try:
            if port:
                pub.bind(f"tcp://{host}:{port}")
            else:
                port = pub.bind_to_random_port(f"tcp://{host}")
            replay_port = router.bind_to_random_port(f"tcp://{host}")
        except zmq.ZMQError:
            pub.close()
            router.close()
            raise
        made = Publisher(pub, router, port, replay_port, [])
        replaying = asyncio.create_task(made.replay())
        try:
            yield made
        finally:
            replaying.cancel()
            await asyncio.wait([replaying])
            pub.close()
            router.close()


@contextlib.asynccontextmanager
async def two_in_a_row() -> AsyncIterator[tuple[Publisher, Publisher]]:
    """The ranks of one replica."""
    async with contextlib.AsyncExitStack() as stack:
        pair: list[Publisher] = []
        while len(pair) < 2:  # a port that is free is found in a few tries
            pair = [await stack.enter_async_context(publisher())]
            with contextlib.suppress(zmq.ZMQError):
                pair.append(await stack.enter_async_context(publisher(pair[0].port + 1)))
        yield pair[0], pair[1]


async def subscribed(*publishers: Publisher) -> None:
    """An XPUB is told of its subscribers: what is published from then on reaches them."""
    async with asyncio.timeout(serving.READY_S):
        for made in publishers:
            assert await made.pub.recv() == b"\x01" + TOPIC


def settings(
    url: str, *published: Publisher, replay: bool = False, ranks: int = 1
) -> GatewayConfig:
    pool = serving.pool([url] * len(published), upstream_model=UPSTREAM)
    replicas = tuple(
        msgspec.structs.replace(replica, kv_events_port=made.port)
        for replica, made in zip(pool.replicas, published, strict=True)
    )
    first = published[0]
    events = KvEventsConfig(
        port=first.port,
        topic=TOPIC.decode(),
        replay_port=first.replay_port if replay else None,
    )
    changed: PoolConfig = msgspec.structs.replace(
        pool,
        replicas=replicas,
        kv_events=events,
        data_parallel_ranks=ranks,
        share_prefix_cache=True,
    )
    return serving.config(pools=[changed])


async def expected(gateway: Serving, token_ids: tuple[int, ...] = PROMPT) -> dict[str, int]:
    ask = generation_pb2.GenerateRequest(
        model=MODEL, prompt_tokens=chat_pb2.TokenInput(token_ids=token_ids)
    )
    quote = await gateway.stub.Quote(inference_pb2.QuoteRequest(request=ask), metadata=METADATA)
    return {c.placement: c.expected_cached_tokens for c in quote.candidates}


async def until(gateway: Serving, wanted: dict[str, int]) -> None:
    """Polls until that is expected of the prompt."""
    found: dict[str, int] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(serving.READY_S):
            while (found := await expected(gateway)) != wanted:
                await asyncio.sleep(0.02)
    assert found == wanted


async def test_each_replica_has_the_hits_that_its_engine_tells() -> None:
    async with (
        engine() as own,
        publisher() as one,
        publisher() as two,
        serving.serving(settings(own.url, one, two)) as gateway,
    ):
        await subscribed(one, two)
        await one.publish(stored(PROMPT))
        await two.publish(stored(PROMPT[: 3 * SIZE]), stored(PROMPT, salt="other"))
        await until(gateway, {"own/a": WHOLE, "own/b": 3 * SIZE})
        await one.publish(removed(PROMPT[: 5 * SIZE]))
        await two.publish(CLEARED)
        await until(gateway, {"own/a": 4 * SIZE, "own/b": 0})


async def test_a_gap_clears_and_nonsense_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with (
        engine() as own,
        publisher() as made,
        serving.serving(settings(own.url, made)) as gateway,
    ):
        await subscribed(made)
        await made.publish(stored(PROMPT))
        await until(gateway, {"own/a": WHOLE})
        await made.publish(removed(PROMPT[:SIZE]), lost=True)
        await made.publish(stored(PROMPT[: 2 * SIZE]))
        await until(gateway, {"own/a": 2 * SIZE})
        assert "KV events 1 to 1 were missed" in caplog.text
        await made.pub.send_multipart([TOPIC, b"short"])
        await made.publish_raw(b"\xc1")
        await until(gateway, {"own/a": 0})
        assert "own/a rank 0: 2 bad messages" in caplog.text
        await made.publish(stored(PROMPT[: 4 * SIZE]))
        await until(gateway, {"own/a": 4 * SIZE})
        made.restart()
        await made.publish(stored(PROMPT[:SIZE]))
        await until(gateway, {"own/a": SIZE})
        assert "the engine has restarted" in caplog.text


async def test_what_was_missed_is_asked_for_where_the_engine_replays() -> None:
    async with engine() as own, publisher() as made:
        for blocks in range(6):  # before anyone listens
            await made.publish(stored(PROMPT[: (blocks + 1) * SIZE], done=blocks))
        made.loses = {3}
        async with serving.serving(settings(own.url, made, replay=True)) as gateway:
            await subscribed(made)
            await made.publish(stored(PROMPT, done=6))
            await until(gateway, {"own/a": WHOLE})
            await made.publish(removed(PROMPT[: 8 * SIZE]), lost=True)
            await made.publish(removed(PROMPT[: 9 * SIZE]))
            await until(gateway, {"own/a": 7 * SIZE})
            assert made.replays == 3
            # What fell out of the engine's memory stays unknown.
            await made.publish(removed(PROMPT[:SIZE]), lost=True)
            made.sent.clear()
            await made.publish(stored(PROMPT[: 2 * SIZE]))
            await until(gateway, {"own/a": 2 * SIZE})


async def test_a_reload_keeps_a_subscription_until_the_configuration_drops_it() -> None:
    async with engine() as own, publisher() as made:
        config = settings(own.url, made, replay=True)
        async with serving.serving(config) as gateway:
            await subscribed(made)
            await made.publish(stored(PROMPT[: 6 * SIZE]))
            await until(gateway, {"own/a": 6 * SIZE})
            await gateway.gateway.reload(config, Path.cwd())
            await until(gateway, {"own/a": 6 * SIZE})  # nothing is forgotten, and asked for again
            await made.publish(stored(PROMPT, done=6))
            await until(gateway, {"own/a": WHOLE})
            deaf = msgspec.structs.replace(
                serving.pool([own.url], upstream_model=UPSTREAM), share_prefix_cache=True
            )
            await gateway.gateway.reload(msgspec.structs.replace(config, pools=(deaf,)), Path.cwd())
            async with asyncio.timeout(serving.READY_S):
                while await made.pub.recv() != b"\x00" + TOPIC:
                    pass
            await until(gateway, {"own/a": 0})


async def test_ranks_have_ports_in_a_row() -> None:
    async with (
        engine() as own,
        two_in_a_row() as (one, two),
        serving.serving(settings(own.url, one, ranks=2)) as gateway,
    ):
        await subscribed(one, two)
        await one.publish(stored(PROMPT))
        await two.publish(stored(PROMPT[: 5 * SIZE]))
        await until(gateway, {"own/a": (WHOLE + 5 * SIZE) // 2})


async def test_replicas_found_in_dns_are_listened_to_while_they_are_there() -> None:
    async with (
        fleet() as (_, port),
        dns_server(NAME, FIRST, SECOND) as dns,
        publisher(host=FIRST) as one,
        publisher(one.port, host=SECOND) as two,
    ):
        found = discovering(dns, port, max_replicas=3)
        events = KvEventsConfig(port=one.port, topic=TOPIC.decode())
        (pool,) = found.pools
        pool = msgspec.structs.replace(pool, kv_events=events, share_prefix_cache=True)
        settings = msgspec.structs.replace(found, pools=(pool,))
        async with serving.serving(settings, ready=False) as gateway:
            await until_in_service(gateway, FIRST, SECOND)
            await subscribed(one, two)
            await one.publish(stored(PROMPT))
            await two.publish(stored(PROMPT[: 3 * SIZE]))
            await until(gateway, {"own/0": WHOLE, "own/1": 3 * SIZE, "own/2": 0})
            dns.addresses = [SECOND]
            async with asyncio.timeout(serving.READY_S):
                assert await one.pub.recv() == b"\x00" + TOPIC
            await two.publish(stored(PROMPT[: 5 * SIZE], done=3))
            await serving.until(lambda: in_service(gateway) == {SECOND})
            async with asyncio.timeout(serving.READY_S):
                while (await expected(gateway))["own/1"] != 5 * SIZE:
                    await asyncio.sleep(0.02)
