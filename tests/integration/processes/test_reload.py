"""Reloads at random under load: no client notices one, and nothing is left of any."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import msgspec
import pytest

from gateway.config.gateway import GatewayConfig, KeyConfig, PoolConfig, ReplicaConfig
from gateway.config.limits import KeyLimitsConfig, LimitsConfig
from gateway.config.prices import PricesConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import inference_pb2
from scheduler.contract import AttemptOutcome
from scheduler.metering.settlement import SettledAttempt
from tests import serving
from tests.integration.faults.test_cancellation import nothing_is_left, tasks_when_idle
from tests.ledgers import booked, one
from tests.serving import METADATA, Serving, chat_request, first_message, read_stream

LIST = inference_pb2.ListModelsRequest()
ENGINE = SimulatedVllmConfig(served_model_name="sim", speed=4.0, max_num_seqs=16)
SERVERS = 4
CLIENTS = 20
RELOADS = 40
GUESTS = ("mg-guest-1", "mg-guest-2", "mg-guest-3")
"""Keys that come and go."""
PRICES = (1, 2, 5)
"""USD for a million tokens of any kind, in catalogs of their own."""
NANO_USD_PER_TOKEN = 1000
"""Of one USD for a million tokens."""
CATALOG = """
showback:
  - id: at-{usd}
    pool: own
    usd_per_mtok: {{input: "{usd}", cached_input: "{usd}", output: "{usd}"}}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""


def metadata(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def configuration(
    servers: Sequence[SimulatedVllm],
    *,
    replicas: Mapping[str, int],
    guests: Sequence[str] = (),
    has_remote: bool = False,
    limits: LimitsConfig | None = None,
    key_limits: KeyLimitsConfig | None = None,
    usd: int = PRICES[0],
    max_num_seqs: int = 8,
) -> GatewayConfig:
    """`replicas`: the index of the server of each one. `usd`: the price, of a catalog."""
    pool: PoolConfig = msgspec.structs.replace(
        serving.pool([], upstream_model="sim", max_num_seqs=max_num_seqs),
        replicas=tuple(
            ReplicaConfig(name=name, url=servers[index].url) for name, index in replicas.items()
        ),
    )
    keys = [
        KeyConfig(id=key[3:], sha256=key_sha256(key), limits=key_limits or KeyLimitsConfig())
        for key in guests
    ]
    remotes = [serving.remote(servers[-1].url, upstream_model="sim")] if has_remote else []
    made = serving.config(
        pools=[pool], remotes=remotes, keys=keys, limits=limits, interactive=serving.PATIENT
    )
    return msgspec.structs.replace(made, prices=PricesConfig(catalog=f"prices-{usd}.yaml"))


def random_configuration(rng: random.Random, servers: Sequence[SimulatedVllm]) -> GatewayConfig:
    """Replica `a` stays where it is: there is always one server of the model."""
    names = [name for name in "bcd" if rng.random() < 0.6]
    replicas = {"a": 0, **{name: rng.randrange(1, SERVERS - 1) for name in names}}
    order = rng.sample(sorted(replicas), len(replicas))
    return configuration(
        servers,
        replicas={name: replicas[name] for name in order},
        guests=[key for key in GUESTS if rng.random() < 0.5],
        has_remote=rng.random() < 0.5,
        limits=LimitsConfig(
            queue_requests=rng.choice([64, 256]),
            attempts=rng.choice([2, 3]),
            default_deadline_s=rng.choice([300.0, 600.0]),
        ),
        key_limits=KeyLimitsConfig(concurrent_requests=rng.choice([None, 100, 200])),
        usd=rng.choice(PRICES),
        max_num_seqs=rng.choice([4, 8, 12]),
    )


@asynccontextmanager
async def simulated_servers() -> AsyncIterator[list[SimulatedVllm]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(simulated_vllm(ENGINE)) for _ in range(SERVERS)]


def write_catalogs(folder: Path) -> None:
    for usd in PRICES:
        (folder / f"prices-{usd}.yaml").write_text(CATALOG.format(usd=usd))


@dataclass
class Keys:
    """Keys that hold, and when each of the others was revoked."""

    valid: set[str] = field(default_factory=set)
    revoked_s: dict[str, float] = field(default_factory=dict)

    def become(self, valid: set[str], now_s: float) -> None:
        self.revoked_s.update(dict.fromkeys(self.valid - valid, now_s))
        self.valid = valid


@dataclass
class Load:
    """Clients that ask one request after another until `stop`."""

    gateway: Serving
    rng: random.Random
    keys: Keys
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    good: int = 0
    idempotency_keys: list[tuple[str, str]] = field(default_factory=list)
    """The first is the client's request id."""

    async def client(self, number: int) -> None:
        calls = 0
        while not self.stop.is_set():
            calls += 1
            await self.call(f"client-{number}-call-{calls}")

    async def call(self, name: str) -> None:
        key = self.rng.choice([serving.KEY, *sorted(self.keys.valid)])
        tokens = self.rng.choice([1, 10, 40, 150])
        own = key == serving.KEY and self.rng.random() < 0.3
        request = chat_request(
            f"A story of {name}.",
            max_output_tokens=tokens,
            ignore_eos=True,
            request_id=name,
            session_id=self.rng.choice(["", "s1", "s2"]),
            idempotency_key=f"once-{name}" if own else "",
        )
        began_s = asyncio.get_running_loop().time()
        try:
            seen = await read_stream(self.gateway.stub.Generate(request, metadata=metadata(key)))
        except grpc.aio.AioRpcError as error:
            # Only a key that was revoked since the call began may be refused.
            was_revoked = self.keys.revoked_s.get(key, 0.0) >= began_s
            if error.code() is grpc.StatusCode.UNAUTHENTICATED and was_revoked:
                return
            raise
        assert seen.done is not None
        assert seen.done.usage.completion_tokens == tokens
        self.good += 1
        if own:
            self.idempotency_keys.append((name, f"once-{name}"))


async def code_of(gateway: Serving, request_id: str, key: str = "") -> grpc.StatusCode:
    """The status of a request of one token."""
    request = chat_request(max_output_tokens=1, request_id=request_id, idempotency_key=key)
    try:
        await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def key_code(gateway: Serving, key: str) -> grpc.StatusCode:
    try:
        await gateway.stub.ListModels(LIST, metadata=metadata(key))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def reload_at_random(
    folder: Path, gateway: Serving, load: Load, servers: Sequence[SimulatedVllm]
) -> None:
    """Reloads, and looks at what has to hold at once after each one."""
    rng, keys, loop = load.rng, load.keys, asyncio.get_running_loop()
    held: tuple[str, asyncio.Task[serving.Streamed]] | None = None
    for number in range(RELOADS):
        if held is None or held[1].done():
            if held is not None:
                assert held[1].result().done is not None
            name = f"held-{number}"
            request = chat_request(
                max_output_tokens=600,
                ignore_eos=True,
                request_id=name,
                idempotency_key=f"once-{name}",
            )
            call = gateway.stub.Generate(request, metadata=METADATA)
            await first_message(call)
            held = name, asyncio.create_task(read_stream(call))
        config = random_configuration(rng, servers)
        names = {key.id for tenant in config.tenants for key in tenant.keys}
        valid = {key for key in GUESTS if key[3:] in names}
        # Revoked from now on: a call that reaches the gateway before is good as well.
        keys.become(valid & keys.valid, loop.time())
        await gateway.gateway.reload(config, folder)
        keys.become(valid, loop.time())
        for key in GUESTS:
            wanted = grpc.StatusCode.OK if key in valid else grpc.StatusCode.UNAUTHENTICATED
            assert await key_code(gateway, key) is wanted
        name, stream = held
        codes = [await code_of(gateway, name), await code_of(gateway, "", f"once-{name}")]
        if not stream.done():
            assert codes == [grpc.StatusCode.ALREADY_EXISTS] * 2
        if load.idempotency_keys:
            _, used = rng.choice(load.idempotency_keys)
            assert await code_of(gateway, "", used) is grpc.StatusCode.ALREADY_EXISTS
        await asyncio.sleep(rng.choice([0.0, 0.02, 0.1, 0.4]))
    assert held is not None
    assert (await held[1]).done is not None


def is_charged_by_its_row(account: SettledAttempt) -> bool:
    """Tokens times the price of one catalog: that of the account's row."""
    if not account.pool:  # the remote has no price
        return account.charged_nano_usd is None
    if account.usage is None or account.outcome is not AttemptOutcome.OK:
        return True
    tokens = account.usage.prompt_tokens + account.usage.completion_tokens
    usd = int(account.price_row_id.removeprefix("at-"))
    return account.charged_nano_usd == usd * NANO_USD_PER_TOKEN * tokens


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_client_notices_reloads_at_random(seed: int, tmp_path: Path) -> None:
    write_catalogs(tmp_path)
    rng = random.Random(seed)
    accounts: list[SettledAttempt] = []
    async with simulated_servers() as servers:
        first = configuration(servers, replicas={"a": 0, "b": 1})
        async with serving.serving_in(tmp_path, first, sinks=(accounts.append,)) as gateway:
            tasks = await tasks_when_idle(gateway)
            load = Load(gateway, rng, Keys())
            async with asyncio.timeout(120.0), asyncio.TaskGroup() as group:
                for number in range(CLIENTS):
                    group.create_task(load.client(number))
                await reload_at_random(tmp_path, gateway, load, servers)
                load.stop.set()
            assert load.good > 10 * CLIENTS
            await gateway.gateway.reload(first, tmp_path)
            await serving.until(
                lambda: all(state.serving for state in gateway.gateway.scheduler.core.placements)
            )
            await nothing_is_left(gateway, servers, tasks)
            assert gateway.gateway.scheduler.active_requests == 0
            accounting = gateway.gateway.accounting
            await accounting.write_rows()
            charged = [account.charged_nano_usd or 0 for account in accounts]
            assert await booked(accounting.database) == sum(charged)
            rows = await one(accounting.database, "SELECT COUNT(*) FROM attempt")
            assert rows == len(accounts)
    assert [account for account in accounts if not is_charged_by_its_row(account)] == []
    # The test would show nothing if the load had stayed at one place and one price.
    assert len({account.placement for account in accounts}) >= 3
    assert len({account.price_row_id for account in accounts}) >= 3


async def test_a_reload_of_other_parts_forgets_nothing(tmp_path: Path) -> None:
    write_catalogs(tmp_path)
    async with simulated_servers() as servers:
        before = configuration(servers, replicas={"a": 0, "b": 1})
        async with serving.serving_in(tmp_path, before) as gateway:
            core = gateway.gateway.scheduler.core
            prompt = "All that was said before. " * 400
            for number in range(6):
                request = chat_request(f"{prompt} {number}", max_output_tokens=60, ignore_eos=True)
                await read_stream(gateway.stub.Generate(request, metadata=METADATA))
            model = core._model_states["moe"]
            states = {state.facts.name: state for state in core.placements}
            lengths = model.fleet.lengths.mean("test", 4096)
            breakers = {n: core._admission._admission[n].breakers for n in states}
            fits = {n: model.fleet.groups[model.fleet.index[n]].fit for n in states}
            ttfts = {n: state.ttft_s for n, state in states.items()}
            remembered = len(model.prefixes)
            assert remembered > 0
            assert any(ttft_s is not None for ttft_s in ttfts.values())
            after = configuration(
                servers,
                replicas={"d": 2, "b": 1, "a": 0},
                guests=GUESTS,
                has_remote=True,
                limits=LimitsConfig(queue_requests=7, attempts=1),
                usd=PRICES[1],
            )
            changed = await gateway.gateway.reload(after, tmp_path)
            assert set(changed) == {"pools", "remotes", "tenants", "limits", "prices"}
            assert gateway.gateway.scheduler.core is core
            assert core._model_states["moe"] is model
            now = {state.facts.name: state for state in core.placements}
            assert list(now) == ["own/d", "own/b", "own/a", "far"]
            for name, state in states.items():
                assert now[name] is state
                assert state.serving
                assert state.ttft_s == ttfts[name]
                assert core._admission._admission[name].breakers is breakers[name]
                assert model.fleet.groups[model.fleet.index[name]].fit is fits[name]
            assert model.fleet.lengths.mean("test", 4096) == lengths
            assert len(model.prefixes) == remembered
