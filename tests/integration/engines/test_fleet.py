"""A running fleet under changes of its configuration: only the difference is touched.

Real sockets: servers that follow a script, a DNS server, ZMQ publishers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gateway.config.discovery import DiscoveryConfig
from gateway.config.engines import KvEventsConfig
from gateway.config.gateway import GatewayConfig, PoolConfig, RemoteConfig, TimeoutsConfig
from gateway.config.remote import Feature, RemoteApi
from gateway.domain.generation import Generation
from gateway.fleet.connections import fleet_settings
from gateway.fleet.fleet import Fleet
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Unhurried
from gateway.upstream.moegate.client import MoegateClient
from scheduler.contract import Event, ServingChanged
from scheduler.prefix.token_blocks import CacheEvents, CacheReset
from tests import serving
from tests.dns_server import dns_server
from tests.integration.engines.test_kv_events import TOPIC, Publisher, publisher, subscribed
from tests.scripted import Scripted, listening

NAME = "vllm.test"
HERE = Path.cwd()


@dataclass
class Observed:
    """A fleet that runs, and what it has reported."""

    fleet: Fleet
    events: list[Event]
    busy: set[str] = field(default_factory=set)
    changes: int = 0

    def serving(self) -> dict[str, bool]:
        return {e.placement: e.serving for e in self.events if isinstance(e, ServingChanged)}

    def reasons(self) -> list[str]:
        """Of placements that left service, in order."""
        found = (e for e in self.events if isinstance(e, ServingChanged))
        return [event.reason for event in found if not event.serving]

    async def until_serving(self, *placements: str) -> None:
        def now() -> set[str]:
            return {name for name, serves in self.serving().items() if serves}

        await serving.until(lambda: now() == set(placements))

    async def apply(self, config: GatewayConfig) -> None:
        await self.fleet.apply(fleet_settings(config, HERE))

    async def changed(self) -> None:
        self.changes += 1


@contextlib.asynccontextmanager
async def running(config: GatewayConfig) -> AsyncIterator[Observed]:
    events: list[Event] = []
    async with HttpSession() as session:
        fleet = Fleet(
            fleet_settings(config, HERE),
            session=session,
            pace=Unhurried(),
            clock=asyncio.get_running_loop().time,
            report=events.append,
            is_idle=lambda placement: placement not in observed.busy,
            on_change=lambda: observed.changed(),
        )
        observed = Observed(fleet, events)
        run = asyncio.create_task(fleet.run())
        try:
            yield observed
        finally:
            run.cancel()
            await asyncio.wait([run])
            await fleet.close()
    if not run.cancelled():
        await run


def config(*pools: PoolConfig, remotes: tuple[RemoteConfig, ...] = ()) -> GatewayConfig:
    made = serving.config(pools=pools, remotes=remotes)
    quick = msgspec.structs.replace(made.server, probe_interval_s=0.01)
    return msgspec.structs.replace(made, server=quick)


def found_in_dns(nameserver: str, url: str, **fields: float) -> PoolConfig:
    settings = {"min_refresh_s": 0.02, "max_refresh_s": 0.02, "timeout_s": 0.2, **fields}
    discover = DiscoveryConfig(
        dns=NAME,
        port=int(url.rpartition(":")[2]),
        nameserver=nameserver,
        **settings,  # type: ignore[arg-type]
    )
    return msgspec.structs.replace(serving.pool([]), discover=discover)


async def test_what_stays_is_not_probed_again_and_keeps_its_client() -> None:
    stays, leaves, comes = Scripted(), Scripted(), Scripted()
    async with listening(stays, leaves, comes):
        first = serving.pool([stays.url, leaves.url])
        async with running(config(first)) as observed:
            await observed.until_serving("own/a", "own/b")
            client = observed.fleet.connections.clients["own/a"]
            observed.events.clear()
            a, b = first.replicas
            c = msgspec.structs.replace(b, name="c", url=comes.url)
            await observed.apply(config(msgspec.structs.replace(first, replicas=(a, c))))
            assert observed.serving() == {"own/b": False}
            assert observed.fleet.connections.targets.keys() == {"own/a", "own/c"}
            await observed.until_serving("own/c")
            assert observed.fleet.connections.clients["own/a"] is client
            assert "own/b" in observed.fleet.connections.clients, (
                "a request may be about to start there"
            )
            assert (stays.probes, leaves.probes, comes.probes) == (1, 1, 1)
            looks = stays.looks
            await serving.until(lambda: stays.looks > looks + 5)
            assert "own/a" not in observed.serving(), "no gap, and nothing new"


async def test_other_settings_of_the_same_server_make_a_new_client_without_a_gap() -> None:
    script = Scripted()
    async with listening(script):
        pool = serving.pool([script.url])
        async with running(config(pool)) as observed:
            await observed.until_serving("own/a")
            client = observed.fleet.connections.clients["own/a"]
            observed.events.clear()
            slow = msgspec.structs.replace(pool, timeouts=TimeoutsConfig(first_token_s=7.0))
            await observed.apply(config(slow))
            assert observed.fleet.connections.clients["own/a"] is not client
            await serving.until(lambda: script.probes == 2)
            looks = script.looks
            await serving.until(lambda: script.looks > looks + 3)
            assert observed.serving() == {}


async def test_another_address_is_probed_before_it_serves() -> None:
    old, new = Scripted(), Scripted(completions="hang")
    async with listening(old, new), running(config(serving.pool([old.url]))) as observed:
        await observed.until_serving("own/a")
        await observed.apply(config(serving.pool([new.url])))
        assert observed.serving() == {"own/a": False}
        assert observed.reasons() == ["its address or model has changed"]
        assert observed.fleet.connections.targets["own/a"] == (new.url, serving.MODEL)
        await serving.until(lambda: new.probes == 1)
        assert observed.serving() == {"own/a": False}


async def test_what_dns_has_found_outlasts_other_settings_of_its_pool() -> None:
    script = Scripted()
    async with (
        listening(script),
        dns_server(NAME, "127.0.0.1") as dns,
        running(config(found_in_dns(dns.address, script.url))) as observed,
    ):
        await observed.until_serving("own/0")
        dns.silent = True
        changed = found_in_dns(dns.address, script.url, max_refresh_s=0.03, max_replicas=4)
        observed.events.clear()
        await observed.apply(config(changed))
        slow = msgspec.structs.replace(changed, timeouts=TimeoutsConfig(idle_s=7.0))
        await observed.apply(config(slow))
        await serving.until(lambda: script.probes == 2)
        assert observed.serving() == {}
        dns.silent, dns.addresses = False, ["127.0.0.2"]
        await serving.until(lambda: observed.serving().get("own/0") is False)
        assert observed.reasons()[0] == f"127.0.0.1 is gone from {NAME}"
        assert set(observed.fleet.connections.targets) == {"own/0"}, "another server has its place"
        # From a list, the same pool has other replicas.
        await observed.apply(config(serving.pool([script.url])))
        await observed.until_serving("own/a")


async def test_a_place_with_streams_is_not_given_away() -> None:
    script = Scripted()
    async with listening(script), dns_server(NAME, "127.0.0.1") as dns:
        pool = found_in_dns(dns.address, script.url, max_replicas=1)
        async with running(config(pool)) as observed:
            await observed.until_serving("own/0")
            observed.busy.add("own/0")
            dns.addresses = ["127.0.0.2"]
            await serving.until(lambda: not observed.serving()["own/0"])
            asked = dns.asked
            await serving.until(lambda: dns.asked > asked + 4)
            assert observed.fleet.connections.targets == {}
            observed.busy.clear()
            await serving.until(lambda: "own/0" in observed.fleet.connections.targets)


def listened(pool: PoolConfig, made: Publisher, **fields: object) -> PoolConfig:
    events = KvEventsConfig(port=made.port, topic=TOPIC.decode())
    return msgspec.structs.replace(pool, kv_events=events, **fields)


async def test_subscriptions_that_stay_are_not_made_again() -> None:
    script = Scripted()
    async with listening(script), publisher() as made:
        pool = listened(serving.pool([script.url]), made)
        async with running(config(pool)) as observed:
            await subscribed(made)
            observed.events.clear()
            slow = msgspec.structs.replace(pool, timeouts=TimeoutsConfig(idle_s=7.0))
            await observed.apply(config(slow))
            assert not await made.pub.poll(50), "no one has come or gone"
            await observed.apply(config(serving.pool([script.url])))
            async with asyncio.timeout(serving.READY_S):
                assert await made.pub.recv() == b"\x00" + TOPIC
            told = [event for event in observed.events if isinstance(event, CacheEvents)]
            unknown = CacheReset(known=False, emptied=False)
            assert told == [CacheEvents(placement="own/a", rank=0, ranks=1, changes=(unknown,))]


def far(**fields: object) -> RemoteConfig:
    made = serving.remote("grpc://127.0.0.1:9")
    return msgspec.structs.replace(made, api=RemoteApi.MOEGATE, **fields)


async def test_the_client_of_a_changed_remote_is_closed_after_its_last_stream() -> None:
    async with running(config(remotes=(far(),))) as observed:
        await observed.until_serving("far")
        old = observed.fleet.connections.clients["far"]
        assert isinstance(old, MoegateClient)
        await observed.apply(config(remotes=(far(price_row="a/b"),)))
        assert observed.fleet.connections.clients["far"] is old
        with old._counted():
            await observed.apply(config(remotes=(far(upstream_model="other"),)))
            new = observed.fleet.connections.clients["far"]
            assert new is not old
            await asyncio.sleep(0.02)
            assert not old._closed
        await serving.until(lambda: old._closed)
        assert observed.serving() == {"far": True}
        await observed.apply(config(serving.pool([])))
        assert observed.serving() == {"far": False}
        assert isinstance(new, MoegateClient)
        await serving.until(lambda: new._closed)


async def test_a_client_that_is_still_busy_is_closed_with_the_fleet() -> None:
    async with running(config(remotes=(far(),))) as observed:
        old = observed.fleet.connections.clients["far"]
        assert isinstance(old, MoegateClient)
        stream = old._counted()
        stream.__enter__()
        await observed.apply(config(serving.pool([])))
    assert old._closed
    stream.__exit__(None, None, None)


async def test_fields_that_a_remote_cannot_honour_are_those_of_the_settings_in_force() -> None:
    asked = Generation(request_id="r", model=serving.MODEL, input="Hello", max_output_tokens=100)
    async with running(config(remotes=(far(),))) as observed:
        assert observed.fleet.connections.unsupported_by(asked) == {}
        assert observed.fleet.connections.cannot_continue == {"far"}
        less = far(max_output_tokens=50, cannot=(Feature.PROMPT,), can=(Feature.CONTINUATION,))
        await observed.apply(config(remotes=(less,)))
        assert observed.fleet.connections.unsupported_by(asked) == {
            "far": ("prompt", "max_output_tokens")
        }
        assert observed.fleet.connections.cannot_continue == set()
        other = msgspec.structs.replace(asked, model="other")
        assert observed.fleet.connections.unsupported_by(other) == {}
