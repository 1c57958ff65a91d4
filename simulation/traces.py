"""Traces of requests: lengths, times and shared prefixes, without any text.

Formats of two public ones, parsed from their lines (reading files is the caller's):

- Azure LLM inference traces (AzurePublicDataset, CC-BY): CSV with TIMESTAMP, ContextTokens,
  GeneratedTokens; prefixes are unknown.
- Mooncake (kvcache-ai/Mooncake, Apache-2.0): JSON lines with timestamp (ms), input_length,
  output_length and hash_ids, one per 512 prompt tokens: equal ids are equal prefixes. Its stamps
  lie in bins of about 3 s, with up to 28 requests each, so they are spread over their bin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

MOONCAKE_BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One request.

    `content`: ids of its full blocks, prompt first and answer after it, as far as others may share
    them: equal ids at equal places are equal text. `client`: its sender; "" if unknown.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    content: Sequence[int] = ()
    client: str = ""
    session: str = ""


def parse_azure(lines: Iterable[str]) -> list[TraceRow]:
    """Rows by time, the first at 0 s. Raises ValueError with the line: not of that format."""
    rows = []
    first: np.datetime64 | None = None
    for number, line in enumerate(lines, 1):
        fields = line.strip().split(",")
        if (number == 1 and fields[0].lstrip("\ufeff") == "TIMESTAMP") or fields == [""]:
            continue
        try:
            stamp, prompt, output = fields
            # Fractions of seven digits: 100 ns.
            at = np.datetime64(stamp.strip().partition("+")[0].replace(" ", "T"), "ns")
            first = at if first is None else first
            at_s = float((at - first) / np.timedelta64(1, "s"))
            rows.append(_row(at_s, int(prompt), int(output)))
        except ValueError as error:
            raise ValueError(f"line {number}: {line.strip()!r} is not an Azure row") from error
    return sorted(rows, key=lambda row: row.at_s)


def parse_mooncake(lines: Iterable[str]) -> list[TraceRow]:
    """Rows by time. Raises ValueError with the line: not of that format."""
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            at_s = float(found["timestamp"]) / 1000.0
            prompt, output = int(found["input_length"]), int(found["output_length"])
            ids = tuple(int(i) for i in found["hash_ids"])
            # A block that is not full cannot be shared, so its id is dropped.
            rows.append(_row(at_s, prompt, output, ids[: prompt // MOONCAKE_BLOCK_TOKENS]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number}: {line[:80]!r} is not a Mooncake row") from error
    return sorted(rows, key=lambda row: row.at_s)


def spread_bins(rows: Sequence[TraceRow], seed: int) -> list[TraceRow]:
    """Rows that share a stamp, spread evenly at random up to the next stamp."""
    rng = np.random.default_rng(seed)
    found: list[TraceRow] = []
    start = 0
    width_s = 0.0
    while start < len(rows):
        end = start
        while end < len(rows) and rows[end].at_s == rows[start].at_s:
            end += 1
        if end < len(rows):
            width_s = rows[end].at_s - rows[start].at_s
        shared = rows[start:end]
        if len(shared) == 1:
            found += shared
        else:
            offsets = np.sort(rng.uniform(0.0, width_s, len(shared)))
            found += (
                replace(row, at_s=row.at_s + float(offset))
                for row, offset in zip(shared, offsets, strict=True)
            )
        start = end
    return sorted(found, key=lambda row: row.at_s)


def window(
    rows: Sequence[TraceRow], *, first: int, count: int, rate_per_s: float
) -> list[TraceRow]:
    """`count` rows from number `first` on, around the end, with their time scaled.

    Lengths and the shape of the arrivals are kept, the mean rate is `rate_per_s`; the first row
    comes at 0 s. Raises ValueError where there are fewer than 2 rows.
    """
    if not 2 <= count <= len(rows):
        raise ValueError(f"a window of {count} in a trace of {len(rows)} rows")
    span_s = rows[-1].at_s - rows[0].at_s
    # After its end the trace starts again, one mean gap later.
    lap_s = span_s + span_s / (len(rows) - 1)
    times = []
    chosen = []
    for number in range(first, first + count):
        lap, index = divmod(number, len(rows))
        chosen.append(rows[index])
        times.append(rows[index].at_s - rows[0].at_s + lap * lap_s)
    took_s = times[-1] - times[0]
    scale = (count - 1) / rate_per_s / took_s if took_s > 0 else 0.0
    return [
        replace(row, at_s=(time - times[0]) * scale)
        for row, time in zip(chosen, times, strict=True)
    ]


def _row(at_s: float, prompt: int, output: int, content: Sequence[int] = ()) -> TraceRow:
    if prompt < 0 or output < 0:
        raise ValueError(f"{prompt} prompt and {output} output tokens")
    # Rows with nothing in or out are there in both traces; an engine makes at least one token.
    return TraceRow(
        at_s=at_s, prompt_tokens=max(1, prompt), output_tokens=max(1, output), content=content
    )
