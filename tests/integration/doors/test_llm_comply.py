"""The HTTP port before llm-comply, which judges it by the schemas of the providers and by what
their clients rely on."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests import serving
from tests.gateway.doors.openai.rig import call_frames, frame, text_frames
from tests.http_serving import serving_http
from tests.scripted import Scripted, listening

FORMATS = ("openai-chat", "open-responses", "anthropic")
MODEL = "deepseek-r-claude-3-5"
"""By such names llm-comply believes that a model reasons, and skips nothing."""


@dataclass
class Answering(Scripted):
    """A server that calls the first tool of a request, and reasons if it is asked to."""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answers a chat."""
        body = await request.json()
        tools = body.get("tools") or []
        if tools:
            self.frames = call_frames((tools[0]["function"]["name"], '{"location": "Oslo"}'))
        else:
            self.frames = text_frames("Hello", " there, dear friend.")
        if body.get("reasoning_effort"):
            self.frames = [frame({"reasoning_content": "Let me think."}), *self.frames]
        return await super().chat(request)


@pytest.mark.parametrize("judged", FORMATS)
async def test_every_rule_is_kept(judged: str) -> None:
    script = Answering()
    async with listening(script):
        pool = msgspec.structs.replace(
            serving.pool([script.url], upstream_model=serving.MODEL), model=MODEL
        )
        settings = serving.config(pools=[pool], interactive=serving.PATIENT)
        async with serving_http(settings) as http:
            results = await complaints(judged, f"{http.url}/v1")
    assert len(results) >= 8
    assert [each for each in results if each["status"] != "passed"] == []


async def complaints(judged: str, url: str) -> list[dict[str, Any]]:
    """The verdicts of llm-comply."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llm_comply.cli", "--json", "--format", judged),
        *("-u", url, "-k", serving.KEY, "-m", MODEL),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(serving.READY_S):
        output, _ = await process.communicate()
    found: list[dict[str, Any]] = json.loads(output)["results"]
    return found
