"""Statements that must hold after the demo, checked on the counts of clients and engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moegate.demo.client_results import ClientResults, Outcome
from moegate.demo.cost_comparison import CostComparison
from moegate.demo.overflows import Overflows
from moegate.demo.queue_watch import Waiting

COMPLETE = (Outcome.OK_LOCAL, Outcome.OK_REMOTE)
CUT_SHORT = (Outcome.CANCELLED, Outcome.BROKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The result of a whole run.

    Attributes:
        planned: requests of the workload.
        generated_tokens: increase of each engine's own counter.
        left_over: requests that engines still had after the end of the load.
        killed: name of the replica that the demo killed, or None.
        exit_statuses: exit status of each process, and whether it is the expected one.
        load_s: time from the first request to the end of the last one.
        usd_per_hour: price of all self-hosted replicas.
        costs: cost of the run, and of the alternatives.
        overflows: when requests went to the remote.
        most_batch: the queue when most batch requests waited.
    """

    planned: int
    clients: ClientResults
    generated_tokens: Mapping[str, int]
    left_over: int
    killed: str | None
    exit_statuses: Mapping[str, tuple[int | None, bool]]
    load_s: float
    usd_per_hour: float
    costs: CostComparison
    overflows: Overflows
    most_batch: Sequence[Waiting] = ()

    @property
    def received_tokens(self) -> dict[str, int]:
        """Output tokens in the usage of completed streams, keyed by engine."""
        received = dict.fromkeys(self.generated_tokens, 0)
        for ended in self.clients.of(*COMPLETE):
            received[ended.placement] = received.get(ended.placement, 0) + ended.output_tokens
        return received


@dataclass(frozen=True, slots=True)
class Check:
    """One statement, whether it holds, and its figures."""

    statement: str
    holds: bool
    figures: str


def checks(result: RunResult) -> list[Check]:
    """Every statement of the closing report."""
    results = result.clients
    ok, failed = results.count(*COMPLETE), results.count(Outcome.FAILED)
    refused, cancelled = results.count(Outcome.REFUSED), results.count(Outcome.CANCELLED)
    broken = results.count(Outcome.BROKEN)
    broken_figure = f" + {broken} broken" if broken or result.killed else ""
    # Unless the demo killed a replica, an unavailable server is a failure like any other.
    down = sum(ended.code == "UNAVAILABLE" for ended in results.of(Outcome.REFUSED))
    total = ok + refused + cancelled + broken + failed
    bad_ends = [
        f"{name}: {status}" for name, (status, clean) in result.exit_statuses.items() if not clean
    ]
    return [
        Check(
            "every request accounted for",
            result.planned == results.submitted == total,
            f"{results.submitted} sent = {ok} ok + {refused} refused + {cancelled} cancelled"
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


def _failures(result: RunResult) -> str:
    errors = result.clients.errors(Outcome.FAILED)
    if errors:
        return "; ".join(f"{count} x {error}" for error, count in errors.most_common())
    broken = result.clients.count(Outcome.BROKEN)
    if broken:
        return f"{broken} streams broken, which their clients were told (PARTIAL_OUTPUT)"
    return "every complete stream: one done, last; each choice with its finish reason"


def _tokens_agree(result: RunResult) -> Check:
    """Compares the engines' counters with the usage that clients received.

    The difference are the tokens of streams that were cut short, because their clients received no
    usage. It is at least the tokens that these clients received, and at most their limits. A killed
    replica has no counter any more, so that it is left out, and there is no lower bound.
    """
    received = result.received_tokens
    alive = [name for name in result.generated_tokens if name != result.killed]
    rests = {name: result.generated_tokens[name] - received[name] for name in alive}
    rest = sum(rests.values())
    cut = result.clients.of(*CUT_SHORT)
    least = 0 if result.killed else sum(ended.deltas for ended in cut)
    most = sum(ended.max_output_tokens for ended in cut)
    generated = sum(result.generated_tokens[name] for name in alive)
    return Check(
        "tokens agree on both sides",
        min(rests.values()) >= 0 and least <= rest <= most,
        f"{generated} generated = {generated - rest} in usage + {rest} for {len(cut)} streams cut"
        f" short (from {least} to {most} expected)",
    )
