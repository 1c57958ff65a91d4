"""The prober against scripted engines: into service after a token, out when they fail, by
difference."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.fleet import probes
from gateway.fleet.probes import Prober, WatchedReplica
from gateway.fleet.server_info import ControlAddress, ServerInfoWatch
from gateway.upstream.vllm.client import ListedModel
from gateway.upstream.vllm_grpc.server_info import ServerFigures
from scheduler.contract import EngineReport, Event, ServingChanged
from tests.known import IDLE_METRICS

PATIENT_S = 30.0
IDLE = IDLE_METRICS


@dataclass
class Engine:
    """A vLLM server that answers by its fields."""

    models: dict[str, ListedModel] = field(default_factory=lambda: {"up": ListedModel(1000)})
    text: bytes = IDLE
    refuses: bool = False
    hangs: bool = False
    """Whether it generates nothing, though its server answers."""
    tokens: int = 0
    ranks: list[int | None] = field(default_factory=list)
    reads: int = 0

    async def stream(
        self, generation: Generation, *, deadline_s: float
    ) -> AsyncGenerator[Chunk, None]:
        self._answer()
        if self.hangs:
            raise UpstreamFailure(FailureKind.TIMEOUT, "no output")
        assert (generation.model, generation.max_output_tokens) == ("up", 1)
        assert isinstance(generation.input, str)
        assert len(generation.input.split()) >= 12, "few tokens can kill a CPU worker"
        self.tokens += 1
        self.ranks.append(generation.hints.dp_rank)
        return
        yield

    async def list_models(self) -> dict[str, ListedModel]:
        self._answer()
        return self.models

    async def metrics(self) -> bytes:
        self._answer()
        self.reads += 1
        return self.text

    async def steps(self, cursors: Sequence[str]) -> bytes:
        self._answer()
        raise UpstreamFailure(FailureKind.MODEL_NOT_FOUND, "HTTP 404")

    def _answer(self) -> None:
        if self.refuses:
            raise UpstreamFailure(FailureKind.CONNECT, "no connection")


@dataclass
class Watched:
    """A prober, and what it has reported."""

    prober: Prober
    events: list[Event]
    changes: int = 0

    def serving(self) -> dict[str, bool]:
        return {e.placement: e.serving for e in self.events if isinstance(e, ServingChanged)}

    def reports(self, expected: dict[str, bool]) -> bool:
        return self.serving() == expected

    def reasons(self) -> list[str]:
        """Of the placements that left service, in order."""
        found = (e for e in self.events if isinstance(e, ServingChanged))
        return [event.reason for event in found if not event.serving]

    async def changed(self) -> None:
        self.changes += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENT_S):
            while not condition():
                await asyncio.sleep(0.001)


def replica(
    engine: Engine,
    name: str = "own/a",
    *,
    url: str = "http://a",
    ranks: int = 0,
    upstream_model: str = "up",
) -> WatchedReplica:
    placements = tuple(f"{name}/{rank}" for rank in range(ranks)) or (name,)
    return WatchedReplica(
        name=name, placements=placements, url=url, upstream_model=upstream_model, engine=engine
    )


@contextlib.asynccontextmanager
async def watching(
    *replicas: WatchedReplica,
    remotes: tuple[str, ...] = (),
    server_info: ServerInfoWatch | None = None,
) -> AsyncIterator[Watched]:
    events: list[Event] = []
    made = Watched(
        Prober(
            interval_s=0.002,
            clock=asyncio.get_running_loop().time,
            report=events.append,
            on_change=lambda: made.changed(),
            server_info=server_info or ServerInfoWatch(),
        ),
        events,
    )
    made.prober.apply(replicas, remotes)
    run = asyncio.create_task(made.prober.run())
    try:
        yield made
    finally:
        run.cancel()
        await asyncio.wait([run])


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "FIRST_BACKOFF_S", 0.002)
    monkeypatch.setattr(probes, "LONGEST_BACKOFF_S", 0.01)


async def test_a_server_that_comes_into_service_is_asked_what_it_is() -> None:
    engine = Engine()
    figures = ServerFigures(
        version="", ranks=1, context_tokens=None, rank_max_running=7, kv_capacity_tokens=None
    )

    async def ask(control: ControlAddress) -> ServerFigures:
        if not engine.tokens:
            raise UpstreamFailure(FailureKind.CONNECT, f"{control.address}: no connection")
        return figures

    info = ServerInfoWatch(ask)
    info.apply({"own/a": ControlAddress(address="a:9000", tls=False)})
    asking = asyncio.create_task(info.run())
    try:
        await asyncio.sleep(0)  # it is asked in vain, and would be again a minute later
        async with watching(replica(engine), server_info=info) as watched:
            await watched.until(
                lambda: any(isinstance(e, EngineReport) and e.max_running for e in watched.events)
            )
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def test_a_replica_enters_service_after_a_token_and_with_a_report() -> None:
    engine = Engine()
    async with watching(replica(engine)) as watched:
        await watched.until(lambda: watched.serving() == {"own/a": True})
        report = watched.events[0]
        assert isinstance(report, EngineReport), "figures come before requests"
        assert (report.placement, report.context_tokens) == ("own/a", 1000)
        assert engine.tokens == 1
        await watched.until(lambda: engine.reads > 5)
        assert engine.tokens == 1
        assert watched.changes >= 2, "at the start, and for this replica"


async def test_every_pinned_rank_must_generate() -> None:
    text = b"".join(
        b'vllm:num_requests_running{engine="%d"} %d\nvllm:num_requests_waiting{engine="%d"} 0\n'
        % (r, r, r)
        for r in range(2)
    )
    engine = Engine(text=text)
    async with watching(replica(engine, ranks=2)) as watched:
        await watched.until(lambda: watched.serving() == {"own/a/0": True, "own/a/1": True})
        assert engine.ranks == [0, 1]
        reports = [e for e in watched.events if isinstance(e, EngineReport)]
        assert [(r.placement, r.running) for r in reports[:2]] == [("own/a/0", 0), ("own/a/1", 1)]


async def test_another_model_and_a_refused_connection_are_told_once_each() -> None:
    engine = Engine(models={"other": ListedModel()})
    async with watching(replica(engine)) as watched:
        await watched.until(lambda: len(watched.reasons()) == 1)
        engine.refuses = True
        await watched.until(lambda: len(watched.reasons()) == 2)
        await asyncio.sleep(0.05)
        assert "serves other, not up" in watched.reasons()[0]
        assert "no connection" in watched.reasons()[1]
        assert len(watched.reasons()) == 2
        engine.refuses, engine.models = False, {"up": ListedModel()}
        await watched.until(lambda: watched.serving() == {"own/a": True})


async def test_a_server_with_many_other_models_is_told_in_a_few_words() -> None:
    engine = Engine(models={f"other {i:04} " + 4000 * "x": ListedModel() for i in range(1000)})
    async with watching(replica(engine)) as watched:
        await watched.until(lambda: len(watched.reasons()) == 1)
        [reason] = watched.reasons()
        assert "other 0009" in reason
        assert "990 more, not up" in reason
        assert len(reason) < 1500


async def test_two_failed_reads_end_service_one_does_not() -> None:
    engine = Engine()
    async with watching(replica(engine)) as watched:
        await watched.until(lambda: watched.serving() == {"own/a": True})
        engine.text = b"vllm:num_requests_running -3\n"
        await watched.until(lambda: watched.serving() == {"own/a": False})
        assert "num_requests_running" in watched.reasons()[0]
        tokens, engine.text = engine.tokens, IDLE
        await watched.until(lambda: watched.serving() == {"own/a": True})
        assert engine.tokens > tokens, "it has to prove itself again"


async def test_a_silent_replica_must_generate_a_token() -> None:
    engine = Engine()
    async with watching(replica(engine)) as watched:
        await watched.until(lambda: watched.serving() == {"own/a": True})
        watched.prober.notify_silent("own/a")
        await watched.until(lambda: engine.tokens == 2)
        engine.hangs = True
        await watched.until(lambda: engine.reads > 20)
        assert watched.serving() == {"own/a": True}, "nobody has noticed it"
        watched.prober.notify_silent("own/a")
        await watched.until(lambda: watched.serving() == {"own/a": False})
        assert "no output" in watched.reasons()[0]


async def test_a_refused_connection_is_probed_at_once() -> None:
    engine = Engine()
    async with watching(replica(engine)) as watched:
        watched.prober.interval_s = 3600.0
        await watched.until(lambda: watched.serving() == {"own/a": True})
        watched.prober.notify_refused("own/a")
        watched.prober.notify_refused("nobody")
        await watched.until(lambda: engine.tokens == 2)


async def test_what_stays_the_same_is_not_disturbed() -> None:
    same, gone, new = Engine(), Engine(), Engine()
    async with watching(replica(same), replica(gone, "own/b", url="http://b")) as watched:
        await watched.until(lambda: watched.serving() == {"own/a": True, "own/b": True})
        watched.events.clear()
        added = replica(new, "own/c", url="http://c")
        watched.prober.apply([replica(same), added], [], {"own/b": "gone from DNS"})
        assert watched.serving() == {"own/b": False}
        assert watched.reasons() == ["gone from DNS"]
        await watched.until(lambda: watched.serving() == {"own/b": False, "own/c": True})
        reads = gone.reads
        await watched.until(lambda: same.reads > 20)
        assert (same.tokens, gone.tokens, new.tokens) == (1, 1, 1)
        assert gone.reads == reads, "one that has left is not read any more"
        watched.prober.notify_silent("own/b")
        watched.prober.notify_refused("own/b")


@pytest.mark.parametrize("change", ["url", "upstream_model", "ranks"])
async def test_another_server_is_out_of_service_until_it_proves_itself(change: str) -> None:
    old = Engine()
    new = Engine(models={"up": ListedModel(1), "other": ListedModel(1)}, hangs=True)
    async with watching(replica(old)) as watched:
        await watched.until(lambda: watched.serving() == {"own/a": True})
        fields = {"url": "http://new", "upstream_model": "other", "ranks": 2}
        watched.prober.apply([replica(new, **{change: fields[change]})], [])  # type: ignore[arg-type]
        assert watched.serving() == {"own/a": False}
        assert watched.reasons() == ["its address or model has changed"]
        if change == "url":
            await watched.until(lambda: "no output" in watched.reasons()[-1])
            new.hangs = False
            await watched.until(lambda: watched.serving() == {"own/a": True})
        assert old.tokens == 1


async def test_another_client_of_the_same_server_leaves_no_gap() -> None:
    old, new = Engine(), Engine()
    async with watching(replica(old)) as watched:
        await watched.until(lambda: watched.serving() == {"own/a": True})
        watched.prober.apply([replica(new)], [])
        await watched.until(lambda: new.reads > 3)
        assert not watched.reasons()
        assert new.tokens == 1, "its key may be wrong"
        reads = old.reads
        await watched.until(lambda: new.reads > 10)
        assert old.reads == reads
        bad = Engine(hangs=True)
        watched.prober.apply([replica(bad)], [])
        await watched.until(lambda: watched.serving() == {"own/a": False})


async def test_remotes_are_presumed_good_while_they_are_configured() -> None:
    async with watching(remotes=("far",)) as watched:
        await watched.until(lambda: watched.serving() == {"far": True})
        watched.prober.apply([], ["far", "near"])
        assert watched.serving() == {"far": True, "near": True}
        assert len(watched.events) == 2, "nothing is said of what stays"
        watched.prober.apply([], ["near"])
        assert watched.serving() == {"far": False, "near": True}


def all_read(engines: list[Engine], reads: list[int]) -> bool:
    """Whether each has been read some times more than that."""
    return all(e.reads > before + 2 for e, before in zip(engines, reads, strict=True))


ROUNDS = st.lists(
    st.dictionaries(
        st.sampled_from(["own/a", "own/b", "own/c"]),
        st.tuples(st.integers(0, 1), st.integers(0, 1)),
    ),
    min_size=1,
    max_size=6,
)
"""Of each configuration: the number of the server and of the client by replica."""


@settings(max_examples=30, deadline=None)
@given(ROUNDS)
def test_after_any_sequence_of_configurations_the_wanted_replicas_serve(
    rounds: list[dict[str, tuple[int, int]]],
) -> None:
    async def check() -> None:
        engines: dict[tuple[str, int, int], Engine] = defaultdict(Engine)
        async with watching() as watched:
            before: dict[str, tuple[int, int]] = {}
            for wanted in rounds:
                watched.events.clear()
                made = [
                    replica(engines[name, server, client], name, url=f"http://{name}{server}")
                    for name, (server, client) in wanted.items()
                ]
                tokens = {key: engine.tokens for key, engine in engines.items()}
                watched.prober.apply(made, [])
                same = {n for n in wanted if n in before and before[n][0] == wanted[n][0]}
                expected = dict.fromkeys(before.keys() - wanted.keys(), False)
                expected |= dict.fromkeys(wanted.keys() - same, True)
                await watched.until(partial(Watched.reports, watched, expected))
                current = [engines[name, s, c] for name, (s, c) in wanted.items()]
                reads = [engine.reads for engine in current]
                await watched.until(partial(all_read, current, reads))
                for name in same:
                    key = (name, *wanted[name])
                    again = wanted[name] != before[name]
                    assert engines[key].tokens == tokens.get(key, 0) + again
                assert watched.serving() == expected, "nothing was said of what stays"
                before = wanted

    asyncio.run(check())
