"""What a real vLLM costs: the meter against a hand calculation (docs/cost.md shows it)."""

from __future__ import annotations

import asyncio
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path

import msgspec
import pytest

from gateway.config.gateway import KeyConfig, KeyRole
from gateway.config.prices import MeteringConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.cli.main import main
from moegate.v1 import generation_pb2, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.serving import METADATA, chat_request, read_stream
from tests.vllm.launch import VllmProcess

OPERATOR_KEY = "mg-operator-key"
OPERATOR = (("authorization", f"Bearer {OPERATOR_KEY}"),)
USD_PER_HOUR = Decimal("2.50")
PROMPTS = [f"Tell me about expert number {i} of a mixture of experts." for i in range(12)]


def _alone(answer: generation_pb2.Done) -> float:
    """What the answer's first attempt costs (nano-USD) if it has the machine alone."""
    duration_s = Decimal(answer.route.attempts[0].duration.ToNanoseconds()) / 10**9
    return float(duration_s * USD_PER_HOUR / 3600 * 10**9)


async def test_moegate_cost_after_a_load_is_what_a_hand_calculation_says(
    vllm_server: VllmProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = KeyConfig(id="ops", sha256=key_sha256(OPERATOR_KEY), role=KeyRole.OPERATOR)
    pool = serving.pool([vllm_server.base_url], upstream_model=vllm_server.model, max_num_seqs=32)
    settings = msgspec.structs.replace(
        serving.config(pools=[pool], keys=[operator]),
        metering=MeteringConfig(state=str(tmp_path / "meter.json")),
    )
    async with serving.serving(settings) as gateway:

        async def ask(prompt: str) -> generation_pb2.Done:
            request = chat_request(prompt, max_output_tokens=32, ignore_eos=True)
            seen = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
            assert seen.done is not None
            return seen.done

        lone = await ask(PROMPTS[0])
        together = await asyncio.gather(*(ask(prompt) for prompt in PROMPTS[1:]))
        stub = usage_pb2_grpc.UsageServiceStub(gateway.channel)
        request = usage_pb2.GetPoolCostRequest(pool="own")
        cost = await stub.GetPoolCost(request, metadata=OPERATOR)
        command = ["cost", "own", "--target", gateway.gateway.address, "--key", OPERATOR_KEY]
        assert await asyncio.to_thread(main, command) == 0
    assert "saturated floor" in capsys.readouterr().out
    done = [lone, *together]

    # By hand: the bill is time x price, to the last nano-dollar.
    seconds = Decimal(cost.covered.ToNanoseconds()) / 10**9
    bill = (seconds * USD_PER_HOUR / 3600 * 10**9).to_integral_value(ROUND_FLOOR)
    accounts = {account.name: account.nano_usd for account in cost.accounts}
    assert cost.bill_nano_usd == bill == sum(accounts.values())
    # The requests' account is what their answers said, each.
    assert accounts["requests"] == sum(answer.cost.metered_nano_usd for answer in done)
    # A lone request is the whole machine's while it runs.
    assert lone.cost.metered_nano_usd == pytest.approx(_alone(lone), rel=0.01, abs=2000)
    # Eleven together share the machine: each costs less than its own time would cost alone,
    # all of them less than half of that. (Not less than the lone one: a busy computer stretches
    # the time of either at will.)
    assert all(answer.cost.metered_nano_usd < _alone(answer) for answer in together)
    shared = sum(answer.cost.metered_nano_usd for answer in together)
    assert shared < sum(map(_alone, together)) / 2
    # The allocated rate of all tokens is the bill over the tokens.
    tokens = sum(answer.usage.prompt_tokens + answer.usage.completion_tokens for answer in done)
    rates = {rate.token_kind: rate for rate in cost.rates}
    by_hand = int(bill) * 10**6 // tokens
    assert rates["total"].allocated_nano_usd_per_mtok == pytest.approx(by_hand, rel=1e-5)
    with capsys.disabled():
        print(f"\n{seconds} s at ${USD_PER_HOUR}/h: bill {bill} nano-USD, {accounts}")
        print(
            f"lone: by hand {_alone(lone):.0f}, metered {lone.cost.metered_nano_usd} nano-USD;",
            lone.usage,
        )
        print("together:", sorted(answer.cost.metered_nano_usd for answer in together))
        print(f"{tokens} tokens, {cost.rates}")
