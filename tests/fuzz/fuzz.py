"""Fuzzes what reads foreign bytes, for a given time.

    python -m tests.fuzz.fuzz --seconds 120 [--seed 7] [--only decoder]

The time is divided over the targets (`targets.py`). Every finding is shrunk to a small example and
told with the seed that finds it again; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.targets import ROOT, TARGETS, Target

EXAMPLES_PER_ROUND = 200
"""Between two looks at the clock."""
SHOWN_CHARACTERS = 2000
"""Of an example."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`seed`: of the round that found it; `error`: type, message and place."""

    seed: int
    example: Any
    error: str


@dataclass(slots=True)
class Campaign:
    """What came of a target. `findings`: by place in the code, each place once."""

    examples: int = 0
    findings: dict[str, Finding] = field(default_factory=dict)


def place(error: BaseException) -> str:
    """Where the project's own code was when it failed."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT) and "site-packages" not in frame.filename
    ]
    last = frames[-1]
    return f"{Path(last.filename).relative_to(ROOT)}:{last.lineno} in {last.name}"


def fuzz(target: Target, seconds: float, seed: int, max_examples: int | None = None) -> Campaign:
    """Runs rounds until the time or the examples are spent; the first round uses `seed`."""
    campaign = Campaign()
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        _round(target, seed, max_examples or EXAMPLES_PER_ROUND, campaign)
        if max_examples is not None:
            break
        seed += 1
    return campaign


def _round(target: Target, seed: int, examples: int, campaign: Campaign) -> None:
    """One run of hypothesis: at most one new finding, shrunk."""
    last: list[tuple[str, Any, BaseException]] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(target.inputs())
    def one(example: Any) -> None:
        campaign.examples += 1
        try:
            target.check(example)
        except Exception as error:
            where = place(error)
            if where in campaign.findings:
                return
            last[:] = [(where, example, error)]
            raise

    try:
        one()
    except Exception as error:
        # Also hypothesis's own: a check that fails only now and then is a finding, too.
        where, example, cause = last[0] if last else (place(error), None, error)
        told = f"{type(cause).__name__}: {cause}"[:SHOWN_CHARACTERS]
        campaign.findings[where] = Finding(seed, example, f"{told}\n    at {where}")


def main() -> int:
    """Prints a line a target, and its findings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="for all targets together")
    parser.add_argument("--seed", type=int, help="of the first round; absent: another each time")
    parser.add_argument("--only", choices=sorted(TARGETS), help="one target")
    args = parser.parse_args()
    logging.disable()  # what is told of each broken input would bury the findings
    seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    names = [args.only] if args.only else list(TARGETS)
    found = 0
    for name in names:
        campaign = fuzz(TARGETS[name], args.seconds / len(names), seed)
        print(f"{name}: {campaign.examples:,} examples, {len(campaign.findings)} findings")
        for finding in campaign.findings.values():
            found += 1
            print(f"  {finding.error}")
            print(f"    example: {finding.example!r:.{SHOWN_CHARACTERS}}")
            again = f"--only {name} --seed {finding.seed} --seconds 1"
            print(f"    again: python -m tests.fuzz.fuzz {again}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
