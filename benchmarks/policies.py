"""The policy laboratory: our scheduler against the routers of the field, on simulated fleets.

    python -m benchmarks.policies                     the study: minutes on two cores
    python -m benchmarks.policies --full              every rival tuned by itself, parts everywhere
    python -m benchmarks.policies --fleet qwen --trace azure-conv --load 90 --policy ours

The last plays one cell. Every policy sees the same requests on the same engines, whose true step
times differ from the prior that policies know. A request counts when it finished within its SLO
(TTFT <= max(2 s, 3 x its prefill alone), mean TPOT <= 50 ms on Qwen and 80 ms on DeepSeek);
refusals are misses.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.lab.fleets import FLEETS
from benchmarks.lab.loads import TRACES, load_trace
from benchmarks.lab.rivals import RIVALS
from benchmarks.lab.runs import Run, capacity_per_s, play
from benchmarks.lab.score import Score
from benchmarks.lab.study import study
from benchmarks.lab.tables import markdown

POLICIES = ("ours", *RIVALS)
SEEDS = (1, 2)
FOLDER_VARIABLE = "MOEGATE_TRACES"


def main() -> int:
    """Plays the cells that were asked for and prints a line each."""
    parser = argparse.ArgumentParser(description="The policy laboratory.")
    parser.add_argument("--fleet", choices=tuple(FLEETS), help="play cells of this fleet only")
    parser.add_argument("--trace", choices=TRACES, default="azure-conv")
    parser.add_argument("--load", type=float, nargs="+", default=[90.0], help="%% of the capacity")
    parser.add_argument(
        "--full", action="store_true", help="the study with every rival tuned by itself"
    )
    parser.add_argument(
        "--grid-only", action="store_true", help="the study without ablations and packing"
    )
    parser.add_argument("--only", nargs="+", default=[], help="fleets or traces of the study")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--keep", type=Path, help="folder to keep the rivals' scores in")
    parser.add_argument("--out", type=Path, help="write the study's tables there")
    parser.add_argument("--policy", choices=POLICIES, nargs="+", default=list(POLICIES))
    parser.add_argument(
        "--switch", nargs="+", default=[], metavar="NAME=VALUE", help="parts of ours to change"
    )
    parser.add_argument("--cap", type=int, nargs="+", default=[], help="rivals' requests a replica")
    parser.add_argument("--seed", type=int, nargs="+", default=[])
    parser.add_argument("--count", type=int, default=3000, help="requests a run")
    parser.add_argument(
        "--traces", type=Path, default=os.environ.get(FOLDER_VARIABLE), help="folder of the traces"
    )
    arguments = parser.parse_args()
    folder = Path(arguments.traces) if arguments.traces else None
    if arguments.fleet is None:
        found = study(
            folder,
            full=arguments.full,
            seeds=arguments.seed or SEEDS,
            workers=arguments.workers,
            only=arguments.only,
            variants=not arguments.grid_only,
            keep_in=arguments.keep,
        )
        for name, is_public in found.sources.items():
            print(f"{name}: {'the public trace' if is_public else 'generated'}")
        print(f"{found.took_s:.0f} s\n\n{markdown(found)}")
        if arguments.out is not None:
            arguments.out.write_text(markdown(found))
        return 0
    trace = load_trace(arguments.trace, folder)
    print(f"{trace.name}: {'the public trace' if trace.from_file else 'generated'}")
    seeds = arguments.seed or [1]
    for seed in seeds:
        rate = capacity_per_s(arguments.fleet, arguments.trace, seed, folder)
        print(f"seed {seed}: 100 % is {rate:.2f} requests/s on {arguments.fleet}")
    switches = tuple(
        (name, value) for name, _, value in (s.partition("=") for s in arguments.switch)
    )
    print(HEAD)
    for load in arguments.load:
        for seed in seeds:
            for policy in arguments.policy:
                for cap in [None] if policy == "ours" else [None, *arguments.cap]:
                    run = Run(
                        fleet=arguments.fleet,
                        trace=arguments.trace,
                        load=load / 100.0,
                        policy=policy,
                        seed=seed,
                        count=arguments.count,
                        folder=folder,
                        cap=cap,
                        switches=switches if policy == "ours" else (),
                    )
                    began_s = time.perf_counter()
                    print(line(run, play(run), time.perf_counter() - began_s), flush=True)
    return 0


HEAD = (
    f"{'policy':28} {'load':>5} {'SLO met':>8} {'met/$':>8} {'Mtok/$':>7} {'kout/$':>7}"
    f" {'drained/$':>9} {'refused':>8}"
    f" {'TTFT p50/p99 s':>16} {'TPOT p50/p99 ms':>16} {'hit':>5} {'batch':>6} {'power':>6}"
    f" {'KV bal':>7} {'run s':>6}"
)


def line(run: Run, found: Score, took_s: float) -> str:
    """One row under `HEAD`."""
    ttft, tpot = found.ttft_s, found.tpot_s
    return (
        f"{run.label:28} {run.load:5.0%} {found.met:8.3f} {found.met_per_usd:8.0f}"
        f" {found.tokens_per_usd / 1e6:7.2f} {found.output_per_usd / 1e3:7.0f}"
        f" {found.drained_per_usd:9.0f} {found.rejected:8.3f}"
        f" {ttft[0]:7.2f} / {ttft[1]:6.2f} {tpot[0] * 1e3:7.1f} / {tpot[1] * 1e3:6.1f}"
        f" {found.hit_rate:5.2f} {found.batch:6.1f} {found.powered:6.2f} {found.kv_balance:7.2f}"
        f" {took_s:6.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
