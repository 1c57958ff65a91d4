"""How near the step fit and the meter come to a real engine's own seconds.

    MOEGATE_VLLM_VENV=… python -m benchmarks.engine.truth [--json FILE] [--without-shares]

starts vLLM's CPU build with a tiny MoE and the plugin `moegate-vllm`; some four minutes on
a quiet machine. On a busy one the engine's own seconds scatter by tens of per cent, and the figures
with them; the last column of the first table says how much.

The step fit sees every other step of batches of 1 to 16 sequences, and is held against the mean of
the steps between, stalls cut off. The other half's mean says what those that it saw miss by.

The meter's truth is the engine's steps again. A step of B sequences costs each of them 1/B of its
time. A step that also computes prompts costs its sequences what such a step takes without them, and
the prompts the rest, by their tokens. A request's seconds are the sum over its steps: the last one
is told at the same time as its end, and each one before gave one token. For a request that is alone
this is its prefill and decode time. Prompts of several steps are left out. It is computed here from
the feed of steps, apart from what the plugin tells with each answer, which the meter goes by.
`--without-shares` hides that from the meter: what is left is what it makes of tokens as they come.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import aiohttp
import msgspec

from benchmarks.engine.fit import FitPoint, measure_fit
from gateway.config.gateway import SecretConfig
from moegate.vllm_plugin.feed import PATH
from moegate.vllm_plugin.shares import STALL_FACTOR
from tests import serving
from tests.vllm.launch import ENGINE_KEY, VllmProcess, running_vllm

KEY_VARIABLE = "MOEGATE_ENGINE_TRUTH_KEY"
USD_PER_HOUR = 2.50
"""Of `serving.pool`."""
MAX_NUM_SEQS = 32
WARM_S = 15.0
"""The gateway leaves out the first seconds of an engine, and fits after some more."""
FEED_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A closed loop. Words of the prompt and tokens of the answer are drawn evenly."""

    name: str
    clients: int
    requests: int
    prompt_words: tuple[int, int]
    output_tokens: tuple[int, int]


LOADS = (
    Load(name="alone", clients=1, requests=40, prompt_words=(5, 60), output_tokens=(100, 300)),
    Load(name="8 at once", clients=8, requests=120, prompt_words=(5, 200), output_tokens=(40, 250)),
    Load(
        name="40 on 32 slots",
        clients=40,
        requests=280,
        prompt_words=(5, 100),
        output_tokens=(40, 160),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A finished request, seconds on the engine's clock and of its time."""

    end_s: float
    queued_s: float
    prefill_s: float
    decode_s: float
    prompt_tokens: int
    """Computed ones."""
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """A request by the gateway: its metered share, and its attempt from sending to its end."""

    metered_s: float
    whole_s: float


@dataclass
class Feed:
    """Everything that the engine has told since the start."""

    server: VllmProcess
    session: aiohttp.ClientSession
    steps: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[str, Told] = field(default_factory=dict)
    cursor: str = ""

    async def read(self) -> None:
        """Reads what is new."""
        headers = {"Authorization": f"Bearer {ENGINE_KEY}"}
        while True:
            url = f"{self.server.base_url}{PATH}?after={self.cursor}"
            async with self.session.get(url, headers=headers) as response:
                response.raise_for_status()
                answer = await response.json()
            assert not (self.cursor and answer["lost"]), "the feed was read too late"
            self.cursor = f"{answer['instance']}.{answer['next']}"
            self.steps += [
                dict(zip(answer["step_fields"], row, strict=True)) for row in answer["steps"]
            ]
            for row in answer["requests"]:
                one = dict(zip(answer["request_fields"], row, strict=True))
                if one["decode_s"] is not None:
                    self.requests[one["id"].removeprefix("chatcmpl-")] = Told(
                        end_s=one["at_s"],
                        queued_s=one["queued_s"],
                        prefill_s=one["prefill_s"],
                        decode_s=one["decode_s"],
                        prompt_tokens=one["prompt_tokens"] - one["cached_tokens"],
                        output_tokens=one["output_tokens"],
                    )
            if not answer["more"]:
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """Metered seconds of a load beside the engine's, as shares. `sum`: of all requests together;
    `way`: median time outside the engine (HTTP, tokenizer, event loops) of an attempt."""

    load: str
    requests: int
    p50: float
    p90: float
    bias: float
    sum: float
    whole_p50: float
    way: float


def engine_seconds(feed: Feed) -> dict[str, float]:
    """The time of the engine that each request took, by its id."""
    steps = [step for step in feed.steps if not step["dummy"]]
    took = [step["period_s"] or step["elapsed_s"] for step in steps]
    ends = [step["at_s"] for step in steps]
    pure: defaultdict[int, list[float]] = defaultdict(list)
    for step, took_s in zip(steps, took, strict=True):
        if step["decode_requests"] and not step["prefill_requests"]:
            pure[step["decode_requests"]].append(took_s)
    alone = {
        batch: mean(min(each, STALL_FACTOR * median(times)) for each in times)
        for batch, times in pure.items()
    }
    decoding: list[int] = []
    decode_sums, prompt_token_s = [0.0], []
    for number, (step, took_s) in enumerate(zip(steps, took, strict=True)):
        batch, prompts = step["decode_requests"], step["prefill_requests"]
        decode_s = took_s if not prompts else 0.0
        if prompts and batch:
            nearest = min(alone, key=lambda each: abs(each - batch))
            decode_s = min(took_s, alone[nearest])
        if batch:
            decoding.append(number)
            decode_sums.append(decode_sums[-1] + decode_s / batch)
        prompt_token_s.append((took_s - decode_s) / step["prefill_tokens"] if prompts else 0.0)
    found = {}
    for name, told in feed.requests.items():
        # The step with its last token has its time, and each step before it one token.
        last = bisect_right(decoding, bisect_right(ends, told.end_s) - 1)
        first = last - (told.output_tokens - 1)
        if first < 0 or told.output_tokens < 2:
            continue
        prompt_at = decoding[first] - 1
        if prompt_at < 0 or steps[prompt_at]["prefill_tokens"] < told.prompt_tokens:
            continue
        prefill_s = prompt_token_s[prompt_at] * told.prompt_tokens
        found[name] = prefill_s + decode_sums[last] - decode_sums[first]
    return found


def misses_of(load: Load, metered: dict[str, Metered], feed: Feed) -> Misses:
    """Compares the requests of a load that both sides know."""
    engine = engine_seconds(feed)
    names = [name for name in metered if name in engine and engine[name] > 0]
    shares = [metered[name].metered_s / engine[name] - 1.0 for name in names]
    wholes = sorted(
        metered[n].whole_s / (t.queued_s + t.prefill_s + t.decode_s) - 1.0
        for n in names
        if (t := feed.requests[n])
    )
    ways = sorted(
        metered[n].whole_s - (t.queued_s + t.prefill_s + t.decode_s)
        for n in names
        if (t := feed.requests[n])
    )
    absolute = sorted(map(abs, shares))
    return Misses(
        load=load.name,
        requests=len(names),
        p50=absolute[len(names) // 2],
        p90=absolute[len(names) * 9 // 10],
        bias=median(shares),
        sum=sum(metered[n].metered_s for n in names) / sum(engine[n] for n in names) - 1.0,
        whole_p50=wholes[len(names) // 2],
        way=ways[len(names) // 2],
    )


async def run_load(gateway: serving.Serving, load: Load, draw: random.Random) -> dict[str, Metered]:
    """Runs a closed loop through the gateway; returns its requests by their ids."""
    waiting = list(range(load.requests))
    found: dict[str, Metered] = {}

    async def client() -> None:
        while waiting:
            name = f"{load.name.split()[0]}-{waiting.pop()}"
            words = draw.randint(*load.prompt_words)
            request = serving.chat_request(
                f"{draw.random()} " + " ".join(f"word{draw.randrange(999)}" for _ in range(words)),
                max_output_tokens=draw.randint(*load.output_tokens),
                ignore_eos=True,
                request_id=name,
            )
            call = gateway.stub.Generate(request, metadata=serving.METADATA)
            done = (await serving.read_stream(call)).done
            assert done is not None
            found[name] = Metered(
                metered_s=done.cost.metered_nano_usd / 1e9 / USD_PER_HOUR * 3600,
                whole_s=done.route.attempts[-1].duration.ToNanoseconds() / 1e9,
            )

    await asyncio.gather(*(client() for _ in range(load.clients)))
    return found


async def measure_meter(server: VllmProcess, loads: Sequence[Load] = LOADS) -> list[Misses]:
    """Runs the loads through a gateway in this process."""
    os.environ[KEY_VARIABLE] = ENGINE_KEY
    pool = msgspec.structs.replace(
        serving.pool([server.base_url], upstream_model=server.model, max_num_seqs=MAX_NUM_SEQS),
        api_key=SecretConfig(env=KEY_VARIABLE),
    )
    settings = serving.config(pools=[pool], interactive=serving.PATIENT)
    settings = msgspec.structs.replace(
        settings, server=msgspec.structs.replace(settings.server, probe_interval_s=FEED_S)
    )
    found: list[Misses] = []
    draw = random.Random(7)
    async with (
        aiohttp.ClientSession() as session,
        serving.serving(settings) as gateway,
    ):
        feed = Feed(server, session)
        warm = Load(
            name="warm", clients=4, requests=20, prompt_words=(5, 200), output_tokens=(20, 200)
        )
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < WARM_S:
            await run_load(gateway, warm, draw)
        for load in loads:
            metered = await run_load(gateway, load, draw)
            await asyncio.sleep(2 * FEED_S)
            await feed.read()
            found.append(misses_of(load, metered, feed))
    return found


def show(reason: str, points: list[FitPoint], misses: list[Misses]) -> None:
    """Prints both tables. `reason`: why the fit is in use or not."""
    print("| sequences | engine's own ms | fit ms | miss | in use ms | other half's mean |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for each in points:
        print(
            f"| {each.batch} | {each.own_ms:.2f} | {each.fit_ms:.2f} | {each.miss:+.1%} "
            f"| {each.used_ms:.2f} | {each.noise:+.1%} |"
        )
    print(f"\n{reason}\n")
    print("| load | requests | p50 | p90 | median | sum | whole / engine's, p50 | way ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for one in misses:
        print(
            f"| {one.load} | {one.requests} | {one.p50:.1%} | {one.p90:.1%} | {one.bias:+.1%} "
            f"| {one.sum:+.1%} | {one.whole_p50:+.1%} | {one.way * 1e3:.1f} |"
        )


async def measure(server: VllmProcess) -> tuple[str, list[FitPoint], list[Misses]]:
    """Measures the fit, then the meter."""
    reason, points = await measure_fit(server)
    return reason, points, await measure_meter(server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--without-shares", action="store_true", help="hide them from the meter")
    args = parser.parse_args()
    hidden = patch("scheduler.metering.cost.had_of_engine", return_value=None)
    with (
        hidden if args.without_shares else nullcontext(),
        tempfile.TemporaryDirectory(prefix="moegate-truth-") as folder,
        running_vllm(Path(folder), plugin=True) as server,
    ):
        reason, points, misses = asyncio.run(measure(server))
    show(reason, points, misses)
    if args.json is not None:
        figures = {"fit": [asdict(p) for p in points], "meter": [asdict(m) for m in misses]}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
