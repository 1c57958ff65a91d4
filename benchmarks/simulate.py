"""How fast a fleet is simulated, and whether its memory stays flat.

    python -m benchmarks.simulate                     one hour, 20,000 requests, 16 replicas
    python -m benchmarks.simulate --requests 1000000 --rate 120    the long run

The very scheduler of production decides, with progress and reports as it gets them there. At the
end nothing may be left: not in the engines, not in the scheduler, not on its books.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks.lab.fleets import BLOCK_TOKENS, FLEETS
from benchmarks.lab.loads import request_of
from benchmarks.lab.ours import our_scheduler
from simulation.arrivals import Arrival, Outcome
from simulation.fleet import FleetSimulation
from simulation.generators import AZURE_CONVERSATION, single_turns

SAMPLES = 8


def main() -> int:
    """Prints the figures; 1 if a request was lost."""
    parser = argparse.ArgumentParser(description="Speed and memory of the fleet simulation.")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=20_000 / 3600, help="requests per second")
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    fleet = FLEETS["qwen"].of(arguments.replicas)
    truth = fleet.truth(arguments.seed)

    def load() -> Iterator[Arrival]:
        rows = single_turns(AZURE_CONVERSATION, arguments.rate, arguments.seed)
        for number, row in enumerate(islice(rows, arguments.requests)):
            request = request_of(
                f"r{number}",
                row,
                fleet,
                truth,
                block_tokens=BLOCK_TOKENS,
                tenant=row.client,
                is_standard=False,
            )
            yield Arrival(request=request, output_tokens=row.output_tokens)

    ended = 0
    tokens = 0

    def take(outcome: Outcome) -> None:
        nonlocal ended, tokens
        ended += 1
        tokens += outcome.output_tokens

    placements = fleet.placements(arguments.seed, BLOCK_TOKENS)
    scheduler = our_scheduler(fleet, [p.name for p in placements], {})
    simulation = FleetSimulation(placements, scheduler, load(), take)
    span_s = arguments.requests / arguments.rate
    began_s = time.process_time()
    for sample in range(1, SAMPLES + 1):
        until_s = span_s * sample / SAMPLES if sample < SAMPLES else float("inf")
        simulation.run_until(until_s)
        gc.collect()
        print(
            f"{sample / SAMPLES:5.0%} of the trace: {ended:8} ended,"
            f" {time.process_time() - began_s:7.1f} s CPU, {_resident_mib():6.1f} MiB",
            flush=True,
        )
    took_s = time.process_time() - began_s
    counts = simulation.counts
    steps = sum(p.engine.counters.step_tokens.count for p in placements)
    print(
        f"{arguments.requests} requests of {simulation.now:.0f} s on {arguments.replicas} replicas:"
        f" {took_s:.1f} s of one core, {took_s / arguments.requests * 1e6:.0f} us a request,"
        f" {tokens} output tokens in {steps} steps"
    )
    print(counts)
    left: list[object] = [p.engine for p in placements if p.engine.has_work or p.engine.kv_usage]
    if scheduler.queued_requests or any(p.sequences for p in scheduler.placements):
        left.append(scheduler)
    if not counts.conserved or counts.running or counts.queued or left:
        print(f"something was lost or left: {left}")
        return 1
    return 0


def _resident_mib() -> float:
    """Memory now, where /proc tells; else the peak."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
