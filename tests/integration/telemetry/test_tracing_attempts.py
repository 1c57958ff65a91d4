"""Spans of attempts at a real OTLP receiver: by dialect, and of two attempts that race."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config.remote import FailuresConfig, HedgingConfig
from tests import serving
from tests.misbehaving import ANSWER_ID, SIDES, Act, Script, Side, misbehaving
from tests.otlp_receiver import Receiver
from tests.serving import METADATA, chat_request, read_stream

RPC = "moegate.v1.InferenceService/Generate"
CHAT = f"chat {serving.MODEL}"


@pytest.mark.parametrize("side", SIDES)
async def test_an_attempt_bears_the_upstreams_name_for_its_answer(
    otlp: Receiver, side: Side
) -> None:
    async with misbehaving(side, Script()) as bench:
        await read_stream(bench.served.stub.Generate(chat_request(), metadata=METADATA))
        await otlp.until(RPC, CHAT)
    assert otlp.one(CHAT).attributes["gen_ai.response.id"] == ANSWER_ID


@pytest.mark.parametrize("side", [Side.LOCAL, Side.OPENAI])
async def test_a_hedge_tells_its_own_decision(otlp: Receiver, side: Side) -> None:
    script = Script([Act(first_token_s=60)])
    hedging = FailuresConfig(hedging=HedgingConfig(after_s=0.1, share=1.0))
    async with misbehaving(side, script, script, failures=hedging) as bench:
        async with asyncio.timeout(serving.READY_S):
            seen = await read_stream(bench.served.stub.Generate(chat_request(), metadata=METADATA))
        await otlp.until(RPC, CHAT, CHAT)
    assert seen.done is not None
    admission, first, hedge = otlp.children(otlp.one(RPC))
    assert first.attributes["moegate.outcome"] == "superseded"
    assert "moegate.decision" not in first.events, "the admission span tells it"
    told, of_hedge = admission.events["moegate.decision"], hedge.events["moegate.decision"]
    assert told["moegate.decision.chosen"] == first.attributes["moegate.placement"]
    assert of_hedge["moegate.decision.chosen"] == hedge.attributes["moegate.placement"]
    assert of_hedge["moegate.decision.reason"] == seen.done.route.reason
    assert of_hedge["moegate.decision.reason"].startswith("hedge: ")
    assert of_hedge["moegate.decision.candidates"] >= 1
    assert ("moegate.overflow" in hedge.events) == (side is Side.OPENAI)
