"""The SDKs of OpenAI and Anthropic over HTTP/2, unchanged but for their HTTP client."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import anthropic
import httpx2
import openai

from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from tests import serving
from tests.gateway.doors.http.http2.tls import tls_of
from tests.http_serving import serving_http
from tests.serving import KEY, MODEL

STREAMS = 8


async def test_both_sdks_stream_side_by_side_on_one_connection(tmp_path: Path) -> None:
    tls, trusted = tls_of(tmp_path)
    versions: set[str] = set()

    async def told(response: httpx2.Response) -> None:
        versions.add(response.http_version)

    async with simulated_vllm(SimulatedVllmConfig(served_model_name=MODEL, speed=20.0)) as engine:
        made = serving.config(pools=[serving.pool([engine.url])], interactive=serving.PATIENT)
        async with (
            serving_http(made, tls=tls) as http,
            httpx2.AsyncClient(
                http2=True,
                verify=ssl.create_default_context(cafile=str(trusted)),
                event_hooks={"response": [told]},
            ) as client,
        ):
            url = http.url.replace("http://", "https://")
            chat = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, http_client=client)
            messages = anthropic.AsyncAnthropic(base_url=url, api_key=KEY, http_client=client)

            async def ask_openai() -> int:
                stream = await chat.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": "Hi"}],
                    max_tokens=20,
                    stream=True,
                    stream_options={"include_usage": True},
                )
                usage = [chunk.usage async for chunk in stream if chunk.usage is not None]
                return usage[-1].completion_tokens

            async def ask_anthropic() -> int:
                async with messages.messages.stream(
                    model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=20
                ) as stream:
                    return (await stream.get_final_message()).usage.output_tokens

            asking = [each() for each in (ask_openai, ask_anthropic) for _ in range(STREAMS)]
            assert await asyncio.gather(*asking) == [20] * (2 * STREAMS)
            assert versions == {"HTTP/2"}
            listener = http.gateway.front.http
            assert listener is not None
            assert listener.listener.connections == 1
