"""Plays cells on the referee's engines: the real scheduler and the routers of the field.

    python -m benchmarks.referee --fleet qwen --trace azure-conv --load 110 --policy ours
    python -m benchmarks.referee --fleet qwen --trace agents --load 90 --trouble death burst

`--cap` plays each rival with these caps, too; `MOEGATE_TRACES` names the folder with the traces.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.lab.fleets import FLEETS
from benchmarks.lab.grid import COUNTS
from benchmarks.lab.loads import TRACES
from benchmarks.lab.rivals import RIVALS
from benchmarks.referee.cells import TROUBLES, RefereeRun, RefereeScore, play

HEAD = (
    f"{'policy':26} {'trouble':14} {'load':>5} {'met':>6} {'tokens':>7} {'met/$':>7} {'Mtok/$':>7}"
    f" {'power':>6} {'refused':>8} {'late':>6} {'slow':>6} {'TTFT err':>12} {'TPOT err':>12}"
    f" {'TPOT/told':>12} {'gap p50/p99':>12} {'>0.5s':>6}"
)


def line(run: RefereeRun, found: RefereeScore) -> str:
    """One row under `HEAD`."""
    cap = f" cap {run.cap}" if run.cap else ""
    name = run.policy + cap + "".join(f" {key}={value}" for key, value in run.switches)
    pairs = (found.ttft_error, found.tpot_error, found.tpot_bias, found.longest_gap_s)
    told = " ".join(f"{low:5.2f}/{high:6.2f}" for low, high in pairs)
    return (
        f"{name:26} {run.trouble:14} {run.load:5.0%} {found.met:6.3f} {found.met_tokens:7.3f}"
        f" {found.met_per_usd:7.0f} {found.tokens_per_usd / 1e6:7.2f} {found.powered:6.2f}"
        f" {found.refused:8.3f} {found.late:6.3f} {found.slow:6.3f} {told} {found.long_gaps:6.3f}"
    )


def main() -> int:
    """Plays what was asked for and prints a line each."""
    parser = argparse.ArgumentParser(description="The referee of the policy laboratory.")
    parser.add_argument("--fleet", choices=tuple(FLEETS), default="qwen")
    parser.add_argument("--trace", choices=TRACES, default="azure-conv")
    parser.add_argument("--load", type=float, nargs="+", default=[90.0], help="%% of the capacity")
    parser.add_argument("--policy", choices=("ours", *RIVALS), nargs="+", default=["ours"])
    parser.add_argument("--switch", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cap", type=int, nargs="+", default=[])
    parser.add_argument("--trouble", choices=TROUBLES, nargs="+", default=["none"])
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--count", type=int, help="requests a run")
    parser.add_argument("--progress", type=float, default=0.25, help="s between token counts")
    parser.add_argument("--traces", type=Path, default=os.environ.get("MOEGATE_TRACES"))
    given = parser.parse_args()
    switches = tuple((name, value) for name, _, value in (s.partition("=") for s in given.switch))
    base = RefereeRun(
        fleet=given.fleet,
        trace=given.trace,
        load=1.0,
        policy="ours",
        seed=1,
        count=given.count or COUNTS[given.fleet, given.trace],
        folder=Path(given.traces) if given.traces else None,
        progress_s=given.progress,
    )
    print(HEAD)
    for load in given.load:
        for seed in given.seed:
            for trouble in given.trouble:
                for policy in given.policy:
                    one = replace(base, load=load / 100.0, seed=seed, trouble=trouble)
                    if policy == "ours":
                        one = replace(one, switches=switches)
                        print(line(one, play(one)), flush=True)
                        continue
                    for cap in (None, *given.cap):
                        rival = replace(one, policy=policy, cap=cap)
                        print(line(rival, play(rival)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
