"""The output of `moegate explain`: sentences about a decision, and a table of its candidates.

An unknown value is a hyphen, never a zero.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from gateway.config.money import NANO_USD
from moegate.cli.views.fitted_table import Column, FittedTable, number
from moegate.v1 import generation_pb2, inference_pb2

UNKNOWN = "-"
_TIERS = {
    "local": "an own server could start it at once and keep every promise",
    "wait": "it waits: its first token is predicted in time",
    "remote": "own servers would have been late, and a remote that may see it could start it",
    "wait_late": "it waits though its first token will be late: nothing else was allowed or better",
    "refuse": "no place could take it",
}


def view(found: inference_pb2.ExplainResponse) -> RenderableType:
    """Sentences and table."""
    return Group(Text("\n".join(sentences(found))), _table(found))


def sentences(found: inference_pb2.ExplainResponse) -> list[str]:
    """The decision and its reason."""
    age_s = found.age.ToMilliseconds() / 1000
    where = f"to {found.placement}" if found.placement else "nowhere yet"
    lines = [
        f"Request {found.request_id} of {found.model}: attempt {found.attempt} went {where}, "
        f"decided {age_s:.1f} s ago.",
        f"Way {found.tier}: {_TIERS.get(found.tier, found.tier)}.",
        f"Reason: {found.reason}.",
        f"It was counted with {found.prompt_tokens} prompt tokens and "
        f"{found.expected_output_tokens:.0f} output tokens expected.",
    ]
    chosen = next((c for c in found.candidates if c.chosen), None)
    others = [c for c in found.candidates if not c.chosen]
    if chosen is not None and others:
        other = others[0]
        if not other.feasible:
            lines.append(f"The next best place, {other.placement}, was not open: {other.reason}.")
        elif chosen.HasField("marginal_nano_usd") and other.HasField("marginal_nano_usd"):
            more = (other.marginal_nano_usd - chosen.marginal_nano_usd) / NANO_USD
            word = "more" if more >= 0 else "less"
            lines.append(f"The next best place, {other.placement}, costs ${abs(more):.6f} {word}.")
    return lines


def _table(found: inference_pb2.ExplainResponse) -> FittedTable:
    rows = FittedTable(
        [
            Column(header="place"),
            Column(header="open"),
            number("TTFT"),
            number("TPOT", leaves=1),
            number("cached", leaves=3),
            number("SLO misses", leaves=4),
            number("marginal $"),
            number("charge $"),
            Column(header="why", wraps=14, leaves=2),
        ]
    )
    for candidate in found.candidates:
        remote = candidate.kind == generation_pb2.PLACEMENT_KIND_REMOTE
        known_ttft, known_tpot = candidate.HasField("ttft"), candidate.HasField("tpot")
        rows.add_row(
            ("> " if candidate.chosen else "  ") + candidate.placement,
            "yes" if candidate.feasible else "no",
            f"{candidate.ttft.ToNanoseconds() / 1e9:.3f} s" if known_ttft else UNKNOWN,
            f"{candidate.tpot.ToNanoseconds() / 1e6:.1f} ms" if known_tpot else UNKNOWN,
            str(candidate.expected_cached_tokens),
            f"{candidate.harmed_streams:.2f}" if candidate.HasField("harmed_streams") else UNKNOWN,
            _usd(candidate, "marginal_nano_usd"),
            _usd(candidate, "charged_nano_usd"),
            candidate.reason,
            style="bold" if candidate.chosen else ("cyan" if remote else ""),
        )
    return rows


def _usd(candidate: inference_pb2.QuoteCandidate, field: str) -> str:
    if not candidate.HasField(field):
        return UNKNOWN
    return f"{getattr(candidate, field) / NANO_USD:.6f}"
