"""The live view: one snapshot of the fleet and the clients, as a table or as a plain line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moegate.demo.client_results import WINDOW_S, ClientResults, Outcome, percentile_s
from moegate.demo.overflows import short_reason
from moegate.demo.queue_watch import Waiting, in_words
from moegate.demo.scrape import ScrapedEngine

KV_BAR_CELLS = 6
LEGEND = "TTFT: time to first token; TPOT: time per output token; waiting: inside the engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Values of both views.

    `waiting`: the gateway's queue by class; `usd_per_hour`: price of all self-hosted replicas;
    `remote_usd_per_mtok`: list price of the remote's output tokens.
    """

    elapsed_s: float
    duration_s: float
    phase: str
    replicas: Sequence[ScrapedEngine]
    remotes: Sequence[ScrapedEngine]
    clients: ClientResults
    waiting: Sequence[Waiting]
    usd_per_hour: float
    remote_usd_per_mtok: float
    now: float

    @property
    def local_tokens_per_s(self) -> float:
        """Output tokens per second of the self-hosted replicas."""
        return sum(engine.tokens_per_s for engine in self.replicas)

    @property
    def usd_per_million(self) -> float | None:
        """Cost of a million self-hosted output tokens at the current rate."""
        rate = self.local_tokens_per_s
        return self.usd_per_hour / 3600.0 / rate * 1e6 if rate > 0 else None

    @property
    def together_usd_per_million(self) -> float | None:
        """Cost of a million output tokens of the last `WINDOW_S`: all GPUs and the remote."""
        recent = self.clients.recent(self.now)
        tokens = sum(ended.output_tokens for ended in recent)
        remote_costs = [ended.nano_usd for ended in self.clients.overflowed(self.now)]
        if not tokens or None in remote_costs:
            return None
        span_s = min(WINDOW_S, self.elapsed_s)
        bill = self.usd_per_hour / 3600.0 * span_s + sum(cost or 0 for cost in remote_costs) / 1e9
        return bill / tokens * 1e6

    @property
    def overflows(self) -> bool:
        """Whether requests go to the remote, or went there in the last `WINDOW_S`."""
        running = sum(engine.running + engine.waiting for engine in self.remotes)
        return bool(running or self.clients.overflowed(self.now))

    @property
    def overflow(self) -> str:
        """Text on the overflow and its most frequent reason."""
        running = sum(engine.running + engine.waiting for engine in self.remotes)
        some = self.clients.overflowed(self.now)
        if not self.overflows:
            return "none: the own servers take everything"
        reasons = Counter(short_reason(ended.reason) for ended in some)
        why = f" ({reasons.most_common(1)[0][0]})" if reasons else ""
        return f"{running} at the remote now, {len(some)} answered in the last 10 s{why}"

    @property
    def queued(self) -> int:
        """Requests in the gateway's queue."""
        return sum(each.requests for each in self.waiting)


def table(snapshot: Snapshot) -> RenderableType:
    """The live table."""
    burst = snapshot.phase == "burst"
    length = f" of {snapshot.duration_s:.0f}" if snapshot.elapsed_s < snapshot.duration_s else ""
    head = Text.assemble(
        ("moegate demo", "bold"),
        f"   {snapshot.elapsed_s:3.0f}{length} s   ",
        (snapshot.phase, "bold yellow" if burst else "green"),
        ": more than the fleet can take, so the queue fills, then the remote, then some are refused"
        if burst
        else "",
    )
    legend = Text(LEGEND, style="dim")
    body = (
        *(_engines(snapshot), _clients(snapshot), _queue(snapshot)),
        *(_money(snapshot), _latencies(snapshot)),
    )
    return Group(head, *body, legend)


def _engines(snapshot: Snapshot) -> Table:
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    rows.add_column("server", min_width=11)
    for name in ("running", "waiting"):
        rows.add_column(name, justify="right", min_width=7)
    rows.add_column("KV cache", min_width=KV_BAR_CELLS + 5)
    rows.add_column("tokens/s", justify="right", min_width=8)
    rows.add_column("tokens", justify="right", min_width=6)
    rows.add_column("$/M output", justify="right", min_width=10)
    per_replica_usd = snapshot.usd_per_hour / max(1, len(snapshot.replicas))
    for engine in snapshot.replicas:
        rate = engine.tokens_per_s
        price = f"{per_replica_usd / 3600.0 / rate * 1e6:.2f}" if rate > 0 else "-"
        rows.add_row(*_engine_cells(engine), price, style="" if engine.reachable else "red")
    for engine in snapshot.remotes:
        rows.add_row(*_engine_cells(engine, remote=True), "", style="cyan")
    rows.add_section()
    rows.add_row(
        "own servers",
        str(sum(engine.running for engine in snapshot.replicas)),
        str(sum(engine.waiting for engine in snapshot.replicas)),
        "",
        f"{snapshot.local_tokens_per_s:.0f}",
        str(sum(engine.generated_tokens for engine in snapshot.replicas)),
        _number(snapshot.usd_per_million, "{:.2f}"),
        style="bold",
    )
    return rows


def _engine_cells(engine: ScrapedEngine, *, remote: bool = False) -> tuple[str, ...]:
    if not engine.reachable:
        return engine.name, "gone", "", "", "", str(engine.generated_tokens)
    usage = (engine.report.kv_usage or 0.0) if engine.report else 0.0
    filled = round(usage * KV_BAR_CELLS)
    bar = "█" * filled + "░" * (KV_BAR_CELLS - filled)
    return (
        engine.name,
        str(engine.running),
        str(engine.waiting),
        "" if remote else f"{bar} {usage:4.0%}",
        f"{engine.tokens_per_s:.0f}",
        str(engine.generated_tokens),
    )


def _clients(snapshot: Snapshot) -> Table:
    results = snapshot.clients
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    cells = {
        "sent": results.submitted,
        "open": results.in_flight,
        "in queue": snapshot.queued,
        "ok own": results.count(Outcome.OK_LOCAL),
        "remote": results.count(Outcome.OK_REMOTE),
        "refused": results.count(Outcome.REFUSED),
        "left": results.count(Outcome.CANCELLED),
        "broken": results.count(Outcome.BROKEN),
        "failed": results.count(Outcome.FAILED),
    }
    for name in cells:
        rows.add_column(name, justify="right")
    rows.add_row(*(str(value) for value in cells.values()))
    return rows


def _queue(snapshot: Snapshot) -> Text:
    return Text.assemble(("queue: ", "bold"), in_words(snapshot.waiting) or "nobody waits")


def _money(snapshot: Snapshot) -> Text:
    own = _number(snapshot.usd_per_million, "{:.2f}")
    together = _number(snapshot.together_usd_per_million, "{:.2f}")
    return Text.assemble(
        ("overflow: ", "bold"),
        (snapshot.overflow, "yellow" if snapshot.overflows else "green"),
        "\n",
        ("$/M output: ", "bold"),
        f"own {own}, remote {snapshot.remote_usd_per_mtok:.2f}, all answers of the last 10 s"
        f" {together}",
    )


def _latencies(snapshot: Snapshot) -> Text:
    recent = snapshot.clients.recent(snapshot.now)
    p50 = _number(percentile_s((e.ttft_s for e in recent), 50), "{:.2f} s")
    p95 = _number(percentile_s((e.ttft_s for e in recent), 95), "{:.2f} s")
    tpot_s = percentile_s((e.tpot_s for e in recent), 50)
    tpot = "-" if tpot_s is None else f"{tpot_s * 1000:.0f} ms"
    return Text(f"last 10 s, as clients see it: TTFT p50 {p50}, p95 {p95}, TPOT p50 {tpot}")


def line(snapshot: Snapshot) -> str:
    """The snapshot in one line, for a log."""
    results = snapshot.clients
    recent = results.recent(snapshot.now)
    running = "+".join(str(e.running) if e.reachable else "gone" for e in snapshot.replicas)
    remote = sum(engine.running + engine.waiting for engine in snapshot.remotes)
    tpot_s = percentile_s((e.tpot_s for e in recent), 50)
    return (
        f"{snapshot.elapsed_s:3.0f} s {snapshot.phase}:"
        f" running {running}, remote {remote},"
        f" queued {in_words(snapshot.waiting) or 0}"
        f" | sent {results.submitted}, ok {results.count(Outcome.OK_LOCAL)} own"
        f" + {results.count(Outcome.OK_REMOTE)} remote, refused {results.count(Outcome.REFUSED)},"
        f" cancelled {results.count(Outcome.CANCELLED)}, broken {results.count(Outcome.BROKEN)},"
        f" failed {results.count(Outcome.FAILED)}"
        f" | TTFT p50 {_number(percentile_s((e.ttft_s for e in recent), 50), '{:.2f} s')}"
        f" p95 {_number(percentile_s((e.ttft_s for e in recent), 95), '{:.2f} s')},"
        f" TPOT {'-' if tpot_s is None else f'{tpot_s * 1000:.0f} ms'}"
        f" | {snapshot.local_tokens_per_s:.0f} tokens/s"
        f" at ${_number(snapshot.usd_per_million, '{:.2f}')}/M"
        f" | overflow: {snapshot.overflow}"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
