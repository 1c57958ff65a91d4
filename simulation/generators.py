"""Generated traces with the statistics of public traces, for use without the files.

Figures (measured on the files, see `simulation.traces`):

    trace                  prompt mean / p50    output mean / p50   CV of the gaps
    Azure conversation      1,155 / 1,020         211 / 129            1.09
    Azure code              2,048 / 1,469          28 / 13            13.2
    Mooncake conversation  12,035 / 6,909         343 / 350            about 1

Gaps are gamma distributed with that CV, lengths lognormal by their median and mean. Requests come
from few heavy clients: in a public trace of 73 clients the largest sent 28.6 %, the ten largest
67.7 %; Zipf with exponent 1.2 gives 28 % and 74 %. Prefixes are trees: every conversation begins
with the system prompt of its client, and each turn with the whole turn before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.traces import TraceRow
from simulation.workloads import (
    AZURE_CONVERSATION_OUTPUT,
    AZURE_CONVERSATION_PROMPT,
    LengthModel,
)

CLIENTS = 73
CLIENT_EXPONENT = 1.2
AGENT_CONTEXT_TOKENS = 230_000
_BLOCK_OF_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleTurns:
    """Requests that share nothing."""

    prompt: LengthModel
    output: LengthModel
    gap_cv: float
    clients: int = CLIENTS


AZURE_CONVERSATION = SingleTurns(
    prompt=AZURE_CONVERSATION_PROMPT, output=AZURE_CONVERSATION_OUTPUT, gap_cv=1.09
)
AZURE_CODE = SingleTurns(
    prompt=LengthModel(median_tokens=1469.0, mean_tokens=2047.8, longest_tokens=7_500),
    output=LengthModel(median_tokens=13.0, mean_tokens=27.9, longest_tokens=2_000),
    gap_cv=13.2,
)


def single_turns(kind: SingleTurns, rate_per_s: float, seed: int) -> Iterator[TraceRow]:
    """Yields requests without end, ordered by time."""
    rng = np.random.default_rng(seed)
    shares = client_shares(kind.clients)
    shape = 1.0 / kind.gap_cv**2
    now = 0.0
    while True:
        gaps_s = rng.gamma(shape, 1.0 / (shape * rate_per_s), _BLOCK_OF_ROWS)
        prompts = kind.prompt.draw(rng, _BLOCK_OF_ROWS, 1.0)
        outputs = kind.output.draw(rng, _BLOCK_OF_ROWS, 1.0)
        clients = rng.choice(len(shares), _BLOCK_OF_ROWS, p=shares)
        for gap_s, prompt, output, client in zip(gaps_s, prompts, outputs, clients, strict=True):
            now += float(gap_s)
            yield TraceRow(
                at_s=now,
                prompt_tokens=int(prompt),
                output_tokens=int(output),
                client=f"client-{client}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Conversations of many turns.

    Attributes:
        system: prompt that all sessions of a client begin with.
        added: what a turn adds before its answer: a message, or the output of a tool.
        output: lengths of the answers.
        turns: mean number of turns, geometric.
        pause_s: mean of what lies between an answer and the next turn, gamma with CV 1.
        tokens_per_s: at which answers are assumed to come, as a trace has its times fixed.
        longest_tokens: a session ends before its prompt is longer.
        block_tokens: of `TraceRow.content`.
    """

    system: LengthModel
    added: LengthModel
    output: LengthModel
    turns: float
    pause_s: float
    longest_tokens: int
    tokens_per_s: float = 40.0
    block_tokens: int = 512
    clients: int = CLIENTS


MOONCAKE_CONVERSATION = Sessions(
    system=LengthModel(median_tokens=500.0, mean_tokens=800.0, longest_tokens=8_000),
    added=LengthModel(median_tokens=4000.0, mean_tokens=8000.0, longest_tokens=100_000),
    output=LengthModel(median_tokens=320.0, mean_tokens=343.0, longest_tokens=2_000),
    turns=1.5,
    pause_s=40.0,
    longest_tokens=126_000,
)
AGENT_SESSIONS = Sessions(
    system=LengthModel(median_tokens=7000.0, mean_tokens=9000.0, longest_tokens=20_000),
    added=LengthModel(median_tokens=900.0, mean_tokens=2600.0, longest_tokens=40_000),
    output=LengthModel(median_tokens=180.0, mean_tokens=320.0, longest_tokens=4_000),
    turns=30.0,
    pause_s=6.0,
    longest_tokens=AGENT_CONTEXT_TOKENS,
    clients=12,
)


def sessions(kind: Sessions, rate_per_s: float, count: int, seed: int) -> list[TraceRow]:
    """The first `count` turns by time, of sessions that begin at random, once the load is steady.

    `rate_per_s` is that of turns.
    """
    rng = np.random.default_rng(seed)
    shares = client_shares(kind.clients)
    systems = kind.system.draw(rng, kind.clients, 1.0)
    rows: list[TraceRow] = []
    began_s, next_id, number = 0.0, 0, 0
    turn_s = kind.pause_s + kind.output.mean_tokens / kind.tokens_per_s
    steady_s = kind.turns * turn_s * 3.0
    until_s = steady_s + 1.3 * count / rate_per_s
    mean_turns = _mean_turns(kind, rng)
    while began_s < until_s:
        began_s += float(rng.exponential(mean_turns / rate_per_s))
        client = int(rng.choice(len(shares), p=shares))
        number += 1
        next_id = _session(
            kind, rng, rows, f"session-{number}", client, int(systems[client]), began_s, next_id
        )
    rows = sorted((row for row in rows if row.at_s >= steady_s), key=lambda row: row.at_s)[:count]
    start_s = rows[0].at_s
    return [_moved(row, start_s) for row in rows]


def client_shares(clients: int) -> NDArray[np.float64]:
    """Share of each client, in falling order; the shares sum to 1."""
    weights = np.arange(1, clients + 1, dtype=np.float64) ** -CLIENT_EXPONENT
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _session(
    kind: Sessions,
    rng: np.random.Generator,
    rows: list[TraceRow],
    name: str,
    client: int,
    system_tokens: int,
    now: float,
    next_id: int,
) -> int:
    """Appends the turns of one session; returns the next free block id."""
    turns = int(rng.geometric(1.0 / kind.turns))
    added = kind.added.draw(rng, turns, 1.0)
    outputs = kind.output.draw(rng, turns, 1.0)
    pauses_s = rng.exponential(kind.pause_s, turns)
    # Blocks of the system prompt are negative and the client's own; the others are new ids.
    ids = [-(client * 1000 + i + 1) for i in range(system_tokens // kind.block_tokens)]
    tokens = system_tokens
    for turn in range(turns):
        prompt = tokens + int(added[turn])
        tokens = prompt + int(outputs[turn])
        if tokens > kind.longest_tokens:
            break
        while len(ids) < tokens // kind.block_tokens:
            ids.append(next_id)
            next_id += 1
        rows.append(
            TraceRow(
                at_s=now,
                prompt_tokens=prompt,
                output_tokens=int(outputs[turn]),
                content=tuple(ids),
                client=f"client-{client}",
                session=name,
            )
        )
        now += float(outputs[turn]) / kind.tokens_per_s + float(pauses_s[turn])
    return next_id


def _mean_turns(kind: Sessions, rng: np.random.Generator) -> float:
    """Turns of a session when long ones are cut off, by simulation."""
    total = 0
    tries = 200
    for _ in range(tries):
        turns = int(rng.geometric(1.0 / kind.turns))
        grown = kind.added.draw(rng, turns, 1.0) + kind.output.draw(rng, turns, 1.0)
        fits = np.cumsum(grown) + kind.system.median_tokens <= kind.longest_tokens
        total += int(fits.sum())
    return max(1.0, total / tries)


def _moved(row: TraceRow, start_s: float) -> TraceRow:
    return TraceRow(
        at_s=row.at_s - start_s,
        prompt_tokens=row.prompt_tokens,
        output_tokens=row.output_tokens,
        content=row.content,
        client=row.client,
        session=row.session,
    )
