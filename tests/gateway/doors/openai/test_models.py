"""/v1/models: models and adapters, with OpenAI's fields and vLLM's."""

from __future__ import annotations

from openai.types import Model
from pydantic import TypeAdapter

from gateway.config.engines import AdaptersConfig
from tests import serving
from tests.http_serving import serving_http
from tests.integration.doors.test_gateway import engine
from tests.integration.engines.test_adapters import SQL, lora, pool, settings


async def test_models_and_adapters_are_listed() -> None:
    async with engine(**lora("sql-v3")) as server:
        config = settings(pool(server, adapters=AdaptersConfig(models=(SQL,))))
        async with (
            serving_http(config) as http,
            http.session.get(f"{http.url}/v1/models") as response,
        ):
            listed = (await response.json())["data"]
            models = [TypeAdapter(Model).validate_python(each, strict=True) for each in listed]
            assert [model.id for model in models] == sorted([serving.MODEL, SQL.model])
            (adapter,) = (each for each in listed if each["id"] == SQL.model)
            assert adapter["parent"] == serving.MODEL
            assert adapter["max_model_len"] == 32_768
            async with http.session.get(f"{http.url}/v1/models/{SQL.model}") as one:
                assert await one.json() == adapter
