"""`/v1/catalog` and `/v1/usage`, as OpenClaw's router plugin reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from gateway.config.gateway import KeyConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.tasks import Task
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.gateway.doors.anthropic.test_budgets import asked, capped
from tests.http_serving import ServingHttp, serving_http
from tests.ledgers import a_nano_dollar_a_token
from tests.scripted import DONE, ROLE, Scripted, listening, word
from tests.serving import MODEL

CENT_MICROS = 10_000


async def get(http: ServingHttp, path: str, **headers: str) -> Any:
    async with http.session.get(http.url + path, headers=headers) as response:
        assert response.status == 200
        return await response.json()


async def test_the_catalog_lists_the_models_of_the_key_with_their_prices() -> None:
    script = Scripted(frames=[ROLE, word(1), DONE])
    none = KeyConfig(id="none", sha256=key_sha256("mg-none"), models=("other",))
    local = KeyConfig(id="local", sha256=key_sha256("mg-local"), remote_classes=("us",))
    vectors = msgspec.structs.replace(
        serving.remote("http://127.0.0.1:1"), name="vectors", model="embedder", task=Task.EMBED
    )
    async with listening(script):
        settings = serving.config(
            pools=[serving.pool([script.url])],
            remotes=[serving.remote(script.url), vectors],
            keys=[none, local],
        )
        async with serving_http(settings) as http:
            a_nano_dollar_a_token(http.gateway)
            [provider] = (await get(http, "/v1/catalog"))["providers"]
            [model] = provider["models"]
            assert (provider["id"], provider["openaiCompatible"]) == ("moegate", True)
            assert provider["nativeBaseUrl"].startswith("/v1/native/")
            assert (model["id"], model["upstream"]) == (MODEL, MODEL)
            assert {"llm.responses", "llm.chat"} <= set(model["capabilities"])
            assert model["pricing"]["defaultMaxOutputTokens"] > 0
            assert "inputMicrosPerMillion" not in model["pricing"], "the remote has no price"
            key = {"Authorization": "Bearer mg-local"}
            [provider] = (await get(http, "/v1/catalog", **key))["providers"]
            [model] = provider["models"]
            assert model["pricing"]["inputMicrosPerMillion"] == 1000, "1 nano-USD a token"
            key = {"Authorization": "Bearer mg-none"}
            [provider] = (await get(http, "/v1/catalog", **key))["providers"]
            assert provider["models"] == []


async def test_the_usage_of_a_month_with_its_budget() -> None:
    budgets = ((Period.MONTH, "50.00", None), (Period.DAY, "10.00", "test"))
    async with capped(*budgets) as http:
        await http.post("/v1/messages", asked())
        found = await get(http, "/v1/usage")
        while (
            not found["usage"]["summary"]["actualCostMicros"] or not found["budget"]["spentMicros"]
        ):
            found = await get(http, "/v1/usage")
        assert found["usage"]["summary"] == {
            "requestCount": 1,
            "totalTokens": 7,
            "actualCostMicros": 7 * CENT_MICROS,
        }
        budget = found["budget"]
        assert (budget["configured"], budget["limitMicros"]) == (True, 5000 * CENT_MICROS)
        assert budget["spentMicros"] == 7 * CENT_MICROS
        assert re.search(r"/\d{4}-\d{2}$", budget["windowKey"])
        assert budget["windowKey"].endswith(f"{datetime.now(UTC):%Y-%m}")
        rows = {each["period"]: (each["scope"], each["limitMicros"]) for each in found["budgets"]}
        assert rows == {
            "month": ("tenant", 5000 * CENT_MICROS),
            "day": ("key", 1000 * CENT_MICROS),
        }


async def test_without_a_budget_of_the_month_none_is_configured() -> None:
    async with capped((Period.DAY, "2.00", "test")) as http:
        found = await get(http, "/v1/usage")
        assert found["budget"] == {"configured": False}
        assert found["usage"]["summary"]["requestCount"] == 0


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", asked(max_tokens=500), 402),
        ("/v1/chat/completions", asked(max_tokens=500, stream=True), 402),
        ("/v1/completions", {"model": MODEL, "prompt": "hi", "max_tokens": 500}, 402),
        ("/v1/responses", {"model": MODEL, "input": "hi", "max_output_tokens": 500}, 429),
    ],
)
async def test_a_spent_budget_in_the_status_that_clients_do_not_repeat(
    path: str, body: dict[str, Any], status: int
) -> None:
    async with (
        capped((Period.DAY, "5.00", "test")) as http,
        http.session.post(http.url + path, json=body) as response,
    ):
        assert response.status == status
        assert (await response.json())["error"]["code"] == "insufficient_quota"
        assert response.headers["x-should-retry"] == "false"
