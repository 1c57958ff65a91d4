"""What must hold after the demo: pure checks over what clients and engines counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moegate.demo.bills import Bills
from moegate.demo.overflows import Overflows
from moegate.demo.tally import Outcome, Tally

COMPLETE = (Outcome.OK_LOCAL, Outcome.OK_REMOTE)
CUT_SHORT = (Outcome.CANCELLED, Outcome.BROKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The whole run.

    Attributes:
        planned: requests of the workload.
        generated_tokens: by engine, what its own counter gained.
        left_over: requests that engines still ran or held after the end.
        killed: name of the replica that was killed on purpose, or None.
        exit_statuses: by process, and whether that is what it should be.
        load_s: from the first request to the end of the last.
        usd_per_hour: of all own replicas.
        bills: what it cost, and what it would have cost otherwise.
        overflows: when requests went to the remote.
    """

    planned: int
    tally: Tally
    generated_tokens: Mapping[str, int]
    left_over: int
    killed: str | None
    exit_statuses: Mapping[str, tuple[int | None, bool]]
    load_s: float
    usd_per_hour: float
    bills: Bills
    overflows: Overflows

    @property
    def received_tokens(self) -> dict[str, int]:
        """By engine, output tokens in the usage of the streams that it completed."""
        received = dict.fromkeys(self.generated_tokens, 0)
        for ended in self.tally.of(*COMPLETE):
            received[ended.placement] = received.get(ended.placement, 0) + ended.output_tokens
        return received


@dataclass(frozen=True, slots=True)
class Check:
    """One statement, whether it holds, and the figures behind it."""

    statement: str
    holds: bool
    figures: str


def checks(result: Result) -> list[Check]:
    """Every statement of the closing report."""
    tally = result.tally
    ok, failed = tally.count(*COMPLETE), tally.count(Outcome.FAILED)
    refused, cancelled = tally.count(Outcome.REFUSED), tally.count(Outcome.CANCELLED)
    broken = tally.count(Outcome.BROKEN)
    broken_figure = f" + {broken} broken" if broken or result.killed else ""
    # Without a kill on purpose, servers that are not there are a fault like any other.
    down = sum(why.startswith("UNAVAILABLE") for why in tally.reasons(Outcome.REFUSED))
    total = ok + refused + cancelled + broken + failed
    bad_ends = [
        f"{name}: {status}" for name, (status, clean) in result.exit_statuses.items() if not clean
    ]
    return [
        Check(
            "every request accounted for",
            result.planned == tally.submitted == total,
            f"{tally.submitted} sent = {ok} ok + {refused} refused + {cancelled} cancelled"
            f"{broken_figure} + {failed} failed",
        ),
        Check(
            "no request failed",
            failed == 0 and (broken == down == 0 or result.killed is not None),
            _failures(result),
        ),
        _tokens_agree(result),
        Check(
            "engines idle at the end",
            result.left_over == 0,
            f"{result.left_over} requests running or waiting",
        ),
        Check(
            "every process ended as told",
            not bad_ends,
            ", ".join(bad_ends) or f"{len(result.exit_statuses)} processes",
        ),
    ]


def _failures(result: Result) -> str:
    reasons = result.tally.reasons(Outcome.FAILED)
    if reasons:
        return "; ".join(f"{count} x {why}" for why, count in reasons.most_common())
    broken = result.tally.count(Outcome.BROKEN)
    if broken:
        return f"{broken} streams broken, which their clients were told (PARTIAL_OUTPUT)"
    return "every complete stream: one done, last; each choice with its finish reason"


def _tokens_agree(result: Result) -> Check:
    """Engines' counters against the usage that clients got.

    The difference is what was generated for streams that were cut short: no usage reached their
    clients. It is at least what these clients received, at most what they had asked for. A killed
    replica took its counter with it and is left out, and with it the lower bound.
    """
    received = result.received_tokens
    alive = [name for name in result.generated_tokens if name != result.killed]
    rests = {name: result.generated_tokens[name] - received[name] for name in alive}
    rest = sum(rests.values())
    cut = result.tally.of(*CUT_SHORT)
    least = 0 if result.killed else sum(ended.deltas for ended in cut)
    most = sum(ended.most_tokens for ended in cut)
    generated = sum(result.generated_tokens[name] for name in alive)
    return Check(
        "tokens agree on both sides",
        min(rests.values()) >= 0 and least <= rest <= most,
        f"{generated} generated = {generated - rest} in usage + {rest} for {len(cut)} streams cut"
        f" short (from {least} to {most} expected)",
    )
