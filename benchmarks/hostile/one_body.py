"""What one large or hostile HTTP body does to the gateway.

Each body goes to a fresh gateway process. The table shows the longest time for which the event loop
was held (by the wall clock, and by CPU time, which a busy machine does not lengthen), and how much
the process grew at most, as a multiple of the body. Writes nothing. Needs Linux.

    python -m benchmarks.hostile.one_body [--only TEXT]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.hostile.messages import MIB, MODEL
from benchmarks.hostile.one_message import (
    CONTEXT_TOKENS,
    HELD_TARGET_MS,
    Found,
    Watched,
    row_of,
    watched_gateway,
)
from benchmarks.serving.overhead import HERE, METADATA, TOKEN_INTERVAL_S, process

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
LARGE = 31_000_000
"""Characters of the large part: a key may send 32 MiB."""
READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Body:
    """A request as bytes. `honest`: the gateway is to answer it; all others are refused."""

    name: str
    path: str
    data: bytes
    honest: bool = False


def chat(content: Any, **fields: Any) -> bytes:
    """A body of each dialect but Responses: one message of the user."""
    message = {"role": "user", "content": content}
    return json.dumps(
        {"model": MODEL, "max_tokens": 1, "messages": [message], **fields}, ensure_ascii=False
    ).encode()


def bodies() -> Iterator[Body]:
    """All bodies, made one by one because of their size."""
    yield from images()
    yield from texts()
    yield from hostile()


def images() -> Iterator[Body]:
    """Pictures in base64, within what one may have, and beyond."""
    for size, honest in ((16 * MIB, True), (LARGE * 3 // 4, False)):
        encoded = base64.b64encode(os.urandom(size)).decode()
        url = f"data:image/png;base64,{encoded}"
        name = f"image of {size / 1e6:.0f} MB"
        picture = [{"type": "image_url", "image_url": {"url": url}}]
        yield Body(f"chat, {name}", CHAT, chat(picture), honest)
        items = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
        asked = {"model": MODEL, "max_output_tokens": 1, "input": items}
        yield Body(f"responses, {name}", RESPONSES, json.dumps(asked).encode(), honest)
        source = {"type": "base64", "media_type": "image/png", "data": encoded}
        block = [{"type": "image", "source": source}]
        yield Body(f"messages, {name}", MESSAGES, chat(block), honest)
    wrong = "*" + base64.b64encode(os.urandom(LARGE * 3 // 4)).decode()
    picture = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{wrong}"}}]
    yield Body("chat, image that is no base64", CHAT, chat(picture))


def texts() -> Iterator[Body]:
    """Prompts of one large text."""
    for name, text in (("ASCII", "word " * (LARGE // 5)), ("CJK", "字" * (LARGE // 3))):
        yield Body(f"chat, text, {name}", CHAT, chat(text), honest=True)
        yield Body(f"messages, text, {name}", MESSAGES, chat(text), honest=True)
    result = {"type": "tool_result", "tool_use_id": "c", "content": "word " * (LARGE // 5)}
    yield Body("messages, result of a tool", MESSAGES, chat([result]), honest=True)


def hostile() -> Iterator[Body]:
    """Much in little, deep, or no JSON."""
    empty = b'{"role":"user","content":"a"},' * (LARGE // 30)
    head = b'{"model":"%s","max_tokens":1,"messages":[' % MODEL.encode()
    yield Body("chat, a million messages", CHAT, head + empty[:-1] + b"]}")
    most = [{"role": "user", "content": "word " * 90}] * 50_000
    most_data = json.dumps({"model": MODEL, "max_tokens": 1, "messages": most}).encode()
    yield Body("chat, 50,000 messages", CHAT, most_data, honest=True)
    yield Body("messages, 50,000 messages", MESSAGES, most_data, honest=True)
    yield Body("chat, nested", CHAT, head + b"[" * LARGE + b"]" * 4)
    yield Body("chat, no JSON", CHAT, b"{" + b'"' * LARGE)
    arguments = json.dumps({"a": "word " * (LARGE // 5)})
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    asked = {"model": MODEL, "messages": [{"role": "assistant", "tool_calls": [call]}]}
    yield Body("chat, arguments of a call", CHAT, json.dumps(asked).encode())


async def send(session: aiohttp.ClientSession, port: int, body: Body) -> str:
    """Sends a body and reads the answer. Returns its status."""
    url = f"http://127.0.0.1:{port}{body.path}"
    async with session.post(url, data=body.data) as response:
        await response.read()
        return str(response.status)


async def measure(gateway: Watched, port: int, body: Body) -> Found:
    """Sends one body."""
    headers = {**dict(METADATA), "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with asyncio.timeout(READY_S):
            small = Body("ready", CHAT, chat("a"))
            while await send(session, port, small) != "200":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        gateway.held_ms()
        gateway.forget_peak()
        before_bytes = gateway.memory_bytes("VmRSS")
        started_s = time.perf_counter()
        answer = await send(session, port, body)
        took_ms = 1000 * (time.perf_counter() - started_s)
        await asyncio.sleep(0.2)
        held_ms, held_cpu_ms = gateway.held_ms()
        grown_bytes = gateway.memory_bytes("VmHWM") - before_bytes
    return Found(answer, took_ms, held_ms, held_cpu_ms, grown_bytes)


def table(upstream_port: str, only: str) -> Table:
    """Runs the bodies, one row each."""
    found_table = Table(title=f"one HTTP body; targets: held ≤ {HELD_TARGET_MS:g} ms, memory ≤ 4 x")
    found_table.add_column("body")
    for column in ("MB", "status", "ms", "held ms", "held CPU ms", "grown MiB", "x"):
        found_table.add_column(column, justify="right")
    for body in bodies():
        if only not in body.name:
            continue
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with watched_gateway(upstream_port, http_port=port) as gateway:
            found = uvloop.run(measure(gateway, port, body))
        good = (found.answer == "200") == body.honest
        found_table.add_row(*row_of(body.name, len(body.data), found, good=good))
    return found_table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="bodies whose names hold this text")
    args = parser.parse_args()
    upstream = (str(HERE / "upstream.py"), str(TOKEN_INTERVAL_S), "1", CONTEXT_TOKENS)
    with process(*upstream) as (_, upstream_port):
        Console(width=130).print(table(upstream_port, args.only))


if __name__ == "__main__":
    main()
