"""A gateway that watches its own event loop: `one_message.py` runs it as a process.

Prints its address. For each line on its standard input it prints the longest time for which the
loop was held since the line before: by the wall clock, and by the CPU time of the loop's thread,
which other processes of a busy machine do not lengthen. Both are in seconds.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path

import uvloop

from gateway.config.load.file import load
from gateway.runtime.memory import return_large_blocks
from gateway.server import running_gateway

BEAT_S = 0.001


class Heart:
    """Longest times between two turns of the event loop."""

    def __init__(self) -> None:
        self.held_s = 0.0
        self.held_cpu_s = 0.0

    async def beat(self) -> None:
        """Beats until cancelled."""
        while True:
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            await asyncio.sleep(BEAT_S)
            self.held_s = max(self.held_s, time.perf_counter() - wall_s - BEAT_S)
            self.held_cpu_s = max(self.held_cpu_s, time.thread_time() - cpu_s)

    def tell(self) -> None:
        """Prints what was found and begins anew. The line comes from the benchmark."""
        if not sys.stdin.readline():
            raise SystemExit
        print(f"{self.held_s:.6f} {self.held_cpu_s:.6f}", flush=True)
        self.held_s = self.held_cpu_s = 0.0


async def serve(path: Path) -> None:
    """Runs until killed."""
    heart = Heart()
    return_large_blocks()
    async with running_gateway(load(path), path.parent) as gateway:
        gc.collect()
        gc.freeze()
        asyncio.get_running_loop().add_reader(sys.stdin, heart.tell)
        beating = asyncio.create_task(heart.beat())
        print(gateway.address, flush=True)
        await beating


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
