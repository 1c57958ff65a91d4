"""Deliveries without sockets, in virtual time: a client is a write that blocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.delivery.deliveries import WATCH_S, Deliveries
from gateway.delivery.read_ahead import Output
from gateway.delivery.unread import UnreadOutput
from gateway.delivery.unread_memory import UnreadLimits, output_bytes
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import ChoiceDelta, Chunk
from gateway.domain.outcomes import Finished
from scheduler.contract import PlacementKind, Usage
from tests.ledgers import settled
from tests.virtual_time import in_virtual_time

LIMITS = UnreadLimits(
    blocked_write_s=10.0, stream_bytes=10_000, tenant_bytes=20_000, total_bytes=30_000
)
NEVER_S = 1e9
FINISHED = Finished(
    model="moe",
    usage=Usage(prompt_tokens=1, completion_tokens=1),
    settled=settled(),
    kind=PlacementKind.SELF_HOSTED,
    placement="own/a",
    pool="own",
    replica="a",
    reason="",
    attempts=(),
    queue_s=0.0,
    ttft_s=None,
    tpot_s=None,
    total_s=0.0,
)


def chunk(number: int, text: str = "word ") -> Chunk:
    return Chunk(deltas=(ChoiceDelta(index=0, text=text),), output_tokens=number)


@dataclass
class Source:
    """A pipeline's output. `ended`: how it ended; empty: it has not."""

    chunks: int
    text: str = "word "
    step_s: float = 0.0
    failure: Exception | None = None
    yielded: int = 0
    ended: str = ""

    async def outputs(self) -> AsyncGenerator[Output, None]:
        try:
            for number in range(self.chunks):
                await asyncio.sleep(self.step_s)
                self.yielded = number + 1
                yield chunk(number, self.text)
            if self.failure is not None:
                raise self.failure
            yield FINISHED
            self.ended = "finished"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        finally:
            self.ended = self.ended or "closed"


@dataclass
class Client:
    """Takes outputs while `reads` is set."""

    reads: asyncio.Event = field(default_factory=asyncio.Event)
    taken: list[Output] = field(default_factory=list)

    async def take(self, output: Output) -> None:
        await self.reads.wait()
        self.taken.append(output)


@asynccontextmanager
async def watched(limits: UnreadLimits = LIMITS) -> AsyncIterator[Deliveries]:
    deliveries = Deliveries(lambda: limits, asyncio.get_running_loop().time)
    task = asyncio.create_task(deliveries.run())
    try:
        yield deliveries
    finally:
        task.cancel()
        assert deliveries.open_streams == 0
        assert deliveries.unread_bytes == 0


async def deliver(
    deliveries: Deliveries,
    source: Source,
    client: Client,
    *,
    tenant: str = "team",
    deadline_s: float = NEVER_S,
) -> None:
    async with deliveries.open(source.outputs(), tenant=tenant, deadline_s=deadline_s) as delivery:
        async for output in delivery:
            await delivery.write(client.take(output))


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(WATCH_S)


@in_virtual_time
async def test_a_client_that_reads_gets_everything_in_order_without_a_task() -> None:
    source, client = Source(chunks=50, step_s=0.05), Client()
    client.reads.set()
    async with watched() as deliveries:
        tasks = len(asyncio.all_tasks())
        delivering = asyncio.create_task(deliver(deliveries, source, client))
        while not delivering.done():
            assert len(asyncio.all_tasks()) <= tasks + 1
            await asyncio.sleep(0.01)
        await delivering
    assert client.taken == [*map(chunk, range(50)), FINISHED]
    assert source.ended == "finished"


@in_virtual_time
async def test_the_end_of_the_upstream_is_noticed_while_the_client_does_not_read() -> None:
    source, client = Source(chunks=20), Client()
    async with watched() as deliveries:
        delivering = asyncio.create_task(deliver(deliveries, source, client))
        await until(lambda: source.ended == "finished")
        assert now() < 1.0
        assert client.taken == []
        assert deliveries.unread_bytes > 0
        client.reads.set()
        await delivering
    assert client.taken == [*map(chunk, range(20)), FINISHED]


@in_virtual_time
async def test_a_full_buffer_holds_the_upstream_until_the_client_reads() -> None:
    source, client = Source(chunks=1000), Client()
    most = 10_000 + output_bytes(chunk(0))
    async with watched() as deliveries:
        delivering = asyncio.create_task(deliver(deliveries, source, client))
        await asyncio.sleep(5.0)
        held_at = source.yielded
        assert 10_000 <= deliveries.unread_bytes <= most
        assert held_at < 100
        client.reads.set()
        await delivering
        assert len(client.taken) == 1001
    assert client.taken[:-1] == [*map(chunk, range(1000))]


@in_virtual_time
async def test_a_blocked_write_ends_the_stream_and_the_upstream_call() -> None:
    source, client = Source(chunks=1000), Client()
    async with watched() as deliveries:
        with pytest.raises(UnreadOutput) as raised:
            await deliver(deliveries, source, client)
        assert raised.value.limit_s == 10.0
        assert 10.0 <= now() <= 10.0 + 2 * WATCH_S
    assert source.ended == "closed"


@in_virtual_time
async def test_a_deadline_ends_a_blocked_write_even_after_the_upstreams_end() -> None:
    source, client = Source(chunks=3), Client()
    async with watched() as deliveries:
        with pytest.raises(UnreadOutput) as raised:
            await deliver(deliveries, source, client, deadline_s=2.0)
        assert raised.value.limit_s is None
        assert 2.0 <= now() <= 2.0 + 2 * WATCH_S
    assert source.ended == "finished"


@in_virtual_time
async def test_time_for_which_a_slow_reader_holds_the_upstream_adds_up() -> None:
    """No single write takes long."""
    source, client = Source(chunks=10_000), Client()
    client.reads.set()

    async def take_slowly(output: Output) -> None:
        await asyncio.sleep(1.0)
        client.taken.append(output)

    client.take = take_slowly  # type: ignore[method-assign]
    async with watched() as deliveries:
        with pytest.raises(UnreadOutput):
            await deliver(deliveries, source, client)
    assert source.ended == "closed"
    assert 10.0 <= now() <= 20.0


@in_virtual_time
async def test_a_slow_reader_whose_answer_fits_is_never_ended() -> None:
    source, client = Source(chunks=20), Client()

    async def take_slowly(output: Output) -> None:
        await asyncio.sleep(9.0)
        client.taken.append(output)

    client.take = take_slowly  # type: ignore[method-assign]
    async with watched() as deliveries:
        await deliver(deliveries, source, client)
    assert len(client.taken) == 21
    assert now() > 180.0


@in_virtual_time
async def test_a_tenants_share_is_its_own() -> None:
    async with watched() as deliveries:
        blocked = [
            asyncio.create_task(deliver(deliveries, Source(chunks=1000), Client()))
            for _ in range(10)
        ]
        await asyncio.sleep(2.0)
        # Ten streams together hold the share, and one output more each.
        assert deliveries.unread_bytes < 20_000 + 10 * output_bytes(chunk(0))
        other, client = Source(chunks=15), Client()
        delivering = asyncio.create_task(deliver(deliveries, other, client, tenant="other"))
        await until(lambda: other.ended == "finished")
        client.reads.set()
        await delivering
        for task in blocked:
            task.cancel()
        await asyncio.gather(*blocked, return_exceptions=True)


@in_virtual_time
async def test_memory_that_others_release_lets_a_stream_go_on() -> None:
    limits = UnreadLimits(
        blocked_write_s=1000.0, stream_bytes=10_000, tenant_bytes=10_000, total_bytes=10_000
    )
    async with watched(limits) as deliveries:
        first, second = Source(chunks=1000), Source(chunks=10)
        holding = asyncio.create_task(deliver(deliveries, first, Client()))
        await asyncio.sleep(1.0)
        waiting = asyncio.create_task(deliver(deliveries, second, Client()))
        await asyncio.sleep(1.0)
        assert second.ended == ""
        holding.cancel()
        await until(lambda: second.ended == "finished")
        waiting.cancel()
        await asyncio.gather(holding, waiting, return_exceptions=True)


@in_virtual_time
async def test_a_failure_comes_after_the_output_before_it() -> None:
    failure = UpstreamFailure(FailureKind.PROTOCOL, "cut")
    for blocked in (False, True):
        source, client = Source(chunks=5, failure=failure), Client()
        if not blocked:
            client.reads.set()
        async with watched() as deliveries:
            delivering = asyncio.create_task(deliver(deliveries, source, client))
            await until(lambda source=source: source.ended == "closed")  # type: ignore[misc]
            client.reads.set()
            with pytest.raises(UpstreamFailure):
                await delivering
        assert len(client.taken) == 5


@in_virtual_time
async def test_a_client_that_leaves_while_it_is_read_ahead_for_leaves_nothing() -> None:
    source, client = Source(chunks=100, step_s=0.5), Client()
    async with watched() as deliveries:
        delivering = asyncio.create_task(deliver(deliveries, source, client))
        await asyncio.sleep(3.2)
        assert source.yielded > 3
        tasks = len(asyncio.all_tasks())
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
        assert source.ended == "cancelled"
        assert len(asyncio.all_tasks()) == tasks - 2


@in_virtual_time
async def test_a_timeout_inside_the_stream_is_not_taken_for_the_clients() -> None:
    source, client = Source(chunks=3, failure=TimeoutError("of the upstream")), Client()
    client.reads.set()
    async with watched() as deliveries:
        with pytest.raises(TimeoutError, match="of the upstream"):
            await deliver(deliveries, source, client)
