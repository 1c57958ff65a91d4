"""Clients of a cluster whose leader fails: they repeat what failed under the same idempotency key,
and some of them spend a budget to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from moegate.v1 import inference_pb2_grpc
from scheduler.budgets.budget import SPARE_DIVISOR
from tests.counting import Counting
from tests.serving import METADATA, chat_request
from tests.stack.gateways.cluster import Cluster, Member

BOUND_S = 120.0
AGAIN_S = 0.05
CAP = 6000
"""Cap of a session in nano-USD, at one nano-USD a token."""
PRICES = """showback:
  - id: own
    pool: own
    valid_from: "2026-01-01"
    source: test
    checked_at: "2026-01-01"
    confirmed: true
    usd_per_mtok: {input: "0.001", output: "0.001"}
"""
BUDGET = {
    "tenant": "team",
    "each_session": True,
    "period": "month",
    "cap_usd": f"0.00000{CAP}",
}
MAY_HELP = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Answers after which a client tries again."""


@dataclass(eq=False)
class Asked:
    """A request that a client repeats under one idempotency key, which is its text, too."""

    text: str
    tokens: int
    session: str = ""
    tries: int = 0
    output: bool = False
    """Whether the client has received output."""
    failed: bool = False
    """Whether an answer was cut off, so that the client does not know what became of it."""
    at: str = ""
    """Name of the member that was asked last."""
    cut_short: bool = False
    """Whether its gateway was killed, the leader and its front at once: what it counted in the last
    moments is not booked."""
    told: int = 0
    """Tokens that were counted so long before that they must be booked."""
    first_token: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, member: Member) -> grpc.StatusCode:
        """Asks once. Returns how it ended."""
        self.tries += 1
        self.at = member.name
        request = chat_request(
            self.text,
            max_output_tokens=self.tokens,
            ignore_eos=True,
            idempotency_key=self.text,
            request_id=f"{self.text}.{self.tries}",
            session_id=self.session,
        )
        done = False
        async with asyncio.timeout(BOUND_S), grpc.aio.insecure_channel(member.address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            try:
                async for message in stub.Generate(request, metadata=METADATA):
                    done = message.WhichOneof("event") == "done"
                    self.output |= not done
                    self.first_token.set()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self.failed = True
                return error.code()
        assert done, f"{self.text} ended early"
        return grpc.StatusCode.OK

    async def insist(self, members: Sequence[Member]) -> grpc.StatusCode:
        """Asks until trying again cannot help, each time at the next member. Returns the end."""
        async with asyncio.timeout(BOUND_S):
            while True:
                code = await self.ask(members[self.tries % len(members)])
                if code not in MAY_HELP:
                    return code
                await asyncio.sleep(AGAIN_S)


@dataclass
class Clients:
    """All requests of a test."""

    made: Cluster
    asked: list[Asked] = field(default_factory=list)

    def new(self, text: str, tokens: int, session: str = "") -> Asked:
        """Makes a request. `session`: whose budget it uses; empty: one of its own."""
        asked = Asked(text, tokens, session or text)
        self.asked.append(asked)
        return asked

    async def spend(self, session: str, name: str, members: Sequence[Member]) -> None:
        """Asks until the session's budget is spent."""
        number = 0
        while True:
            number += 1
            code = await self.new(f"{session}-{name}-{number}", 40, session).insist(members)
            if code is grpc.StatusCode.FAILED_PRECONDITION:
                return
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.ALREADY_EXISTS), code

    def killed(self, leader: Member) -> None:
        """The leader was killed, with its front."""
        for asked in self.asked:
            asked.cut_short |= asked.at == leader.name

    async def check(self, upstream: Counting) -> None:
        """Waits until what upstreams counted is booked. No request was charged twice, none ran
        again once its client had output, and no budget was exceeded, but by what a killed leader
        could not tell of its own streams."""
        unsure = {asked.text for asked in self.asked if asked.failed or asked.cut_short}
        least = {asked.text: asked.told for asked in self.asked if asked.told}
        sure = {asked.text for asked in self.asked} - unsure
        wrong, until_s = {"": (0, 0)}, time.monotonic() + BOUND_S
        while wrong:
            await asyncio.sleep(0.1)
            booked = await self.booked()
            wrong = {
                text: (booked.get(text, 0), tokens)
                for text in sure
                if (tokens := upstream.tokens_by_text[text]) != booked.get(text, 0)
            }
            wrong |= {
                text: (booked.get(text, 0), tokens)
                for text, tokens in least.items()
                if booked.get(text, 0) < tokens
            }
            assert time.monotonic() < until_s, f"booked, counted: {wrong}"
        for text in unsure:
            assert booked.get(text, 0) <= upstream.tokens_by_text[text], text
        for asked in self.asked:
            runs = upstream.runs_by_text[asked.text]
            assert runs <= 1 or (asked.failed and runs <= asked.tries), f"{asked} ran {runs} times"
        twice = await self.made.rows(
            f"SELECT {TEXT} FROM attempt WHERE charged_nano_usd > 0 AND request_id LIKE '%.%'"
            " GROUP BY 1 HAVING COUNT(*) > 1"
        )
        assert not twice, f"charged twice: {twice}"
        over = await self.made.rows(
            "SELECT session_id, SUM(charged_nano_usd)::bigint, COUNT(*), MAX(charged_nano_usd),"
            " SUM(prompt_tokens + completion_tokens)::bigint FROM attempt WHERE session_id <> ''"
            f" GROUP BY 1 HAVING SUM(charged_nano_usd) > {CAP}"
        )
        assert not over, f"session, charged, rows, largest charge, tokens over {CAP}: {over}"
        for session in {asked.session for asked in self.asked}:
            mine = [asked for asked in self.asked if asked.session == session]
            spent = sum(upstream.tokens_by_text[asked.text] for asked in mine)
            untold = sum(
                upstream.tokens_by_text[asked.text] - booked.get(asked.text, 0)
                for asked in mine
                if asked.cut_short
            )
            assert spent <= CAP + untold, f"{session} has spent {spent} of {CAP} and {untold}"

    async def untold(self, upstream: Counting) -> list[int]:
        """Returns the tokens that are not booked of streams of a killed leader's front."""
        booked = await self.booked()
        missing = (
            upstream.tokens_by_text[asked.text] - booked.get(asked.text, 0)
            for asked in self.asked
            if asked.cut_short
        )
        return sorted(tokens for tokens in missing if tokens)

    async def unknown(self) -> dict[str, int]:
        """Returns what is booked as spent and belongs to no request, in nano-USD, by session, where
        it is more than the spare part of a lease."""
        rows = await self.made.rows(
            "SELECT session_id, SUM(charged_nano_usd)::bigint FROM attempt WHERE attempt = 0"
            f" GROUP BY 1 HAVING SUM(charged_nano_usd) > {CAP // SPARE_DIVISOR} ORDER BY 2"
        )
        return dict(rows)

    async def held(self, session: str) -> list[list[tuple[Any, ...]]]:
        """Returns the account of a session, its leases, and its rows that are no attempts."""
        return [
            await self.made.rows(f"SELECT {what} WHERE session_id = '{session}' {order}")
            for what, order in (
                ("settled_nano_usd, committed_nano_usd FROM account", ""),
                (
                    "lease_id, epoch, state, granted_nano_usd, settled_nano_usd,"
                    " recovered_nano_usd FROM lease",
                    "ORDER BY opened_unix_us",
                ),
                (
                    "lease_id, state, charged_nano_usd, note FROM attempt",
                    "AND attempt = 0 ORDER BY ended_unix_us",
                ),
            )
        ]

    async def booked(self) -> dict[str, int]:
        """Returns the tokens that are booked, by text of the request."""
        rows = await self.made.rows(
            f"SELECT {TEXT}, SUM(prompt_tokens + completion_tokens)::bigint FROM attempt"
            " WHERE request_id LIKE '%.%' GROUP BY 1"
        )
        return {text: int(tokens or 0) for text, tokens in rows}


TEXT = "split_part(regexp_replace(request_id, '^.*/', ''), '.', 1)"
"""Text of the request of a row."""
