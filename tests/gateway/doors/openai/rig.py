"""A gateway with an HTTP port before a scripted server, and the SDK of OpenAI as its client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import openai

from tests import serving
from tests.http_serving import ServingHttp, serving_http
from tests.scripted import DONE, Scripted, listening

MODEL = serving.MODEL


def frame(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> bytes:
    """A chunk of the server's stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"model": "m", "choices": choices, **fields}).encode() + b"\n\n"


def usage(prompt: int = 12, completion: int = 7, **details: Any) -> bytes:
    """The last chunk, with the usage."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return frame(usage={**counts, "total_tokens": prompt + completion, **details})


def text_frames(*texts: str, finish: str = "stop") -> list[bytes]:
    """The stream of a text."""
    deltas = [frame({"content": text}) for text in texts]
    return [frame({"role": "assistant"}), *deltas, frame({}, finish), usage(), DONE]


def call_piece(index: int, arguments: str, name: str = "", call_id: str = "") -> dict[str, Any]:
    """A piece of a tool call."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    piece: dict[str, Any] = {"index": index, "function": function}
    return piece | ({"id": call_id, "type": "function"} if call_id else {})


def call_frames(*calls: tuple[str, str]) -> list[bytes]:
    """The stream of tool calls, by name and arguments. The arguments come in two pieces."""
    frames = [frame({"role": "assistant"})]
    for i, (name, arguments) in enumerate(calls):
        half = len(arguments) // 2
        frames.append(frame({"tool_calls": [call_piece(i, arguments[:half], name, f"call_{i}")]}))
        frames.append(frame({"tool_calls": [call_piece(i, arguments[half:])]}))
    return [*frames, frame({}, "tool_calls"), usage(), DONE]


@dataclass(slots=True)
class Rig:
    """The parts of a test."""

    http: ServingHttp
    script: Scripted
    client: openai.AsyncOpenAI

    @property
    def sent(self) -> Any:
        """The body that the server received last."""
        return self.script.body

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        """Posts a body with the model."""
        return await self.http.post(path, {"model": MODEL, **body})

    async def events(self, path: str, **body: Any) -> list[Any]:
        """The data of all events of a stream; [DONE] is None."""
        streamed = {"model": MODEL, "stream": True, **body}
        async with self.http.session.post(self.http.url + path, json=streamed) as response:
            assert response.status == 200, await response.text()
            text = await response.text()
        found = []
        for event in text.split("\n\n")[:-1]:
            for line in event.split("\n"):
                if line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    found.append(None if data == "[DONE]" else json.loads(data))
        return found


@contextlib.asynccontextmanager
async def rig(frames: Iterable[bytes] = (), **script: Any) -> AsyncIterator[Rig]:
    """Runs all parts; `frames`: what the server streams for every chat."""
    scripted = Scripted(frames=[*frames] or text_frames("Hello", " there."), **script)
    async with listening(scripted):
        settings = serving.config(pools=[serving.pool([scripted.url])], interactive=serving.PATIENT)
        async with (
            serving_http(settings) as http,
            openai.AsyncOpenAI(
                base_url=f"{http.url}/v1", api_key=serving.KEY, max_retries=0
            ) as client,
        ):
            yield Rig(http, scripted, client)
