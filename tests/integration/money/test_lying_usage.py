"""Upstreams that lie about their tokens: spending limits hold, and bills stay near the truth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2

from gateway.config.ledger import BudgetConfig
from moegate.v1 import generation_pb2
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.ledgers import a_nano_dollar_a_token, booked, one
from tests.scripted import DONE, ROLE, Scripted, listening
from tests.serving import METADATA, Serving, chat_request, detail, read_stream

CAP_NANO_USD = 1500
WORST_NANO_USD = 300
"""Some 290 tokens at most, by the bytes of the prompt and max_output_tokens, a nano-USD each."""
FAR = 1 << 40
LIES = {
    "far too many": (FAR, FAR),
    "too much output": (5, FAR),
    "too much prompt": (FAR, 2),
    "what a provider may add": (20_000, 700),
    "zeros": (0, 0),
}


def lying(prompt: int, completion: int) -> list[bytes]:
    """Two words and these counts."""
    frames: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": f" w{i}"}, "finish_reason": finish}]}
        for i, finish in ((1, None), (2, "stop"))
    ]
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    frames.append({"choices": [], "usage": usage})
    events = [b"data: " + msgspec.json.encode(frame) + b"\n\n" for frame in frames]
    return [ROLE, *events, DONE]


@asynccontextmanager
async def gateway(
    folder: Path, frames: list[bytes], *budgets: BudgetConfig
) -> AsyncIterator[Serving]:
    """A remote with a price of 1 nano-USD a token."""
    script = Scripted(frames=frames)
    async with listening(script):
        config = msgspec.structs.replace(
            serving.config(remotes=[serving.remote(script.url)]), budgets=budgets
        )
        async with serving.serving_in(folder, config) as running:
            names = [state.facts.name for state in running.gateway.scheduler.core.placements]
            a_nano_dollar_a_token(running.gateway, names)
            yield running


async def done_of(running: Serving, **fields: object) -> generation_pb2.Done:
    call = running.stub.Generate(chat_request("hi", **fields), metadata=METADATA)
    seen = await read_stream(call)
    assert seen.texts == {0: " w1 w2"}
    assert seen.done is not None
    return seen.done


@pytest.mark.parametrize("lie", LIES)
async def test_a_hard_budget_is_never_passed(tmp_path: Path, lie: str) -> None:
    cap = BudgetConfig(
        tenant="team", key="test", period=Period.MONTH, cap_usd=f"{CAP_NANO_USD / 1e9:.9f}"
    )
    async with gateway(tmp_path, lying(*LIES[lie]), cap) as running:
        answered = charged = 0
        reason = ""
        try:
            while answered < 3 * CAP_NANO_USD:
                charged += (await done_of(running)).cost.charged_nano_usd
                answered += 1
        except grpc.aio.AioRpcError as error:
            reason = detail(error, error_details_pb2.ErrorInfo).reason
        assert reason == "BUDGET_SPENT"
        assert answered < 3 * CAP_NANO_USD
        assert answered >= CAP_NANO_USD // WORST_NANO_USD - 1
        assert 0 < charged <= CAP_NANO_USD
        database = running.gateway.accounting.database
        assert await booked(database) == charged
        assert await one(database, "SELECT committed_nano_usd FROM account") <= CAP_NANO_USD


@pytest.mark.parametrize("lie", LIES)
async def test_the_limit_of_a_request_is_never_passed(tmp_path: Path, lie: str) -> None:
    async with gateway(tmp_path, lying(*LIES[lie])) as running:
        done = await done_of(running, max_cost_nano_usd=400)
        assert 0 < done.cost.charged_nano_usd <= 400


async def test_without_a_limit_what_cannot_be_is_bounded(tmp_path: Path) -> None:
    async with gateway(tmp_path, lying(FAR, FAR)) as running:
        done = await done_of(running)
        assert done.usage.estimated
        assert done.usage.completion_tokens == 16
        assert done.cost.charged_nano_usd <= WORST_NANO_USD
        assert done.cost.basis == generation_pb2.COST_BASIS_ESTIMATED


async def test_what_a_provider_may_add_is_charged(tmp_path: Path) -> None:
    async with gateway(tmp_path, lying(20_000, 700)) as running:
        done = await done_of(running)
        assert not done.usage.estimated
        assert done.cost.charged_nano_usd == 20_700
