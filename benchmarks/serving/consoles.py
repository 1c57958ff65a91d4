"""What open consoles cost the gateway: CPU seconds of its process per second of the wall clock.

A gateway on a simulated fleet that is at work, first without and then with open consoles. Each
console loads the page of the fleet and then asks for its live part every two seconds, as the
script in a browser does, on a connection of its own.

    python -m benchmarks.serving.consoles [--consoles 50] [--seconds 40] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
from pathlib import Path

import aiohttp

from benchmarks.serving.overhead import cpu_s
from gateway.doors.console.rendering import LIVE_HEADER
from gateway.doors.console.routes import REFRESH_S
from moegate.demo import fleet as fleets
from moegate.demo.processes import Processes
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2_grpc

SETTLE_S = 6.0
PAGE = "/fleet"


async def main(consoles: int, seconds: float, rounds: int) -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory(prefix="moegate-consoles-") as folder:
        async with Processes(Path(folder)) as processes:
            fleet = await fleets.start(processes, Path(folder), 1)
            gateway = next(p for p in processes.all if p.name == "gateway")
            working = asyncio.create_task(_work(fleet))
            await asyncio.sleep(SETTLE_S)
            shares: list[float] = []
            for number in range(rounds):
                without = await _share(gateway.pid, seconds)
                async with _Open(fleet, consoles) as opened:
                    await asyncio.sleep(SETTLE_S)
                    before = opened.answers
                    with_them = await _share(gateway.pid, seconds)
                    answers = opened.answers - before
                shares.append(with_them - without)
                print(
                    f"round {number + 1}: {without:.1%} of a core without, {with_them:.1%} with"
                    f" {consoles} consoles ({answers / seconds:.1f} answers/s,"
                    f" {opened.unchanged} of {opened.answers} unchanged):"
                    f" {with_them - without:.1%} for them",
                    flush=True,
                )
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    print(f"median of {rounds}: {statistics.median(shares):.1%} of a core for {consoles} consoles")


async def _share(pid: int, seconds: float) -> float:
    """CPU seconds per second."""
    clock = asyncio.get_running_loop().time
    start_s, before_s = clock(), cpu_s(pid)
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - before_s) / (clock() - start_s)


async def _work(fleet: fleets.Fleet) -> None:
    """Four streams, one after the other, so that the figures of the fleet change."""

    async def stream() -> None:
        part = chat_pb2.ContentPart(text="Tell me a story.")
        message = chat_pb2.ChatMessage(role=chat_pb2.ROLE_USER, parts=[part])
        request = generation_pb2.GenerateRequest(
            model=fleets.MODEL, chat=chat_pb2.ChatInput(messages=[message]), max_output_tokens=200
        )
        metadata = (("authorization", f"Bearer {fleet.keys[0]}"),)
        while True:
            async for _ in stub.Generate(request, metadata=metadata):
                pass

    async with fleets.channel(fleet.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await asyncio.gather(*(stream() for _ in range(4)))


class _Open:
    """Consoles that are open while the context is. `unchanged`: answers without content."""

    def __init__(self, fleet: fleets.Fleet, consoles: int) -> None:
        self._url = f"http://{fleet.console_address}"
        self._key = fleet.operator_key
        self._consoles = consoles
        self._tasks: list[asyncio.Task[None]] = []
        self.answers = self.unchanged = 0

    async def __aenter__(self) -> _Open:
        self._tasks = [asyncio.create_task(self._one()) for _ in range(self._consoles)]
        return self

    async def __aexit__(self, *_: object) -> None:
        ended = [task for task in self._tasks if task.done()]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in ended:
            task.result()  # raises what ended it

    async def _one(self) -> None:
        await asyncio.sleep(random.uniform(0, REFRESH_S))
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(self._url, cookie_jar=jar) as session:
            async with session.post("/sign-in", data={"key": self._key, "then": PAGE}) as answer:
                assert answer.status == 200, await answer.text()
            tag = ""
            while True:
                headers = {LIVE_HEADER: "1"} | ({"If-None-Match": tag} if tag else {})
                async with session.get(PAGE, headers=headers) as answer:
                    assert answer.status in (200, 304), await answer.text()
                    await answer.read()
                    self.answers += 1
                    self.unchanged += answer.status == 304
                    tag = answer.headers["ETag"]
                await asyncio.sleep(REFRESH_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--consoles", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    asyncio.run(main(given.consoles, given.seconds, given.rounds))
