"""The SDKs of OpenAI and Anthropic for Node, as `sdks.mjs` uses them."""

from __future__ import annotations

import json

from tests.clients.conftest import CLIENTS, ROOT, Bench
from tests.serving import KEY, MODEL


async def test_each_sdk_completes_a_tool_round_trip(bench: Bench) -> None:
    ran = await bench.run(
        *(CLIENTS / "node", ROOT / "tests" / "clients" / "sdks.mjs"),
        CLIENTS=str(CLIENTS),
        GATEWAY=bench.gateway.url,
        KEY=KEY,
        MODEL=MODEL,
    )
    assert ran.status == 0, ran.err
    told = json.loads(ran.out)
    for dialect in ("chat", "responses", "messages"):
        call = told[dialect]["call"]
        assert call["name"] == "exec"
        assert "echo hello" in json.loads(call["arguments"])["command"]
        assert told[dialect]["text"]
    assert told["chat"]["usage"]["completion_tokens"] == 8
    assert told["messages"]["counted"] > 0
    assert told["refused"] == {"status": 401, "code": "invalid_api_key"}
    assert len(bench.attempts.seen) == 6
