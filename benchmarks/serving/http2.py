"""What HTTP/2 costs beside HTTP/1.1: CPU of the gateway for the same answers of Chat Completions
over TLS, by turns, with the default configuration. One client does both; its CPU does not count.

    python -m benchmarks.serving.http2 [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import statistics
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import trustme
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.serving.door_calls import CHAT, Call, free_port
from benchmarks.serving.doors import Figures, account, one_by_one, side_by_side
from benchmarks.serving.overhead import (
    HERE,
    KEY,
    SHORT_TOKENS,
    TOKEN_INTERVAL_S,
    configuration,
    process,
)

VERSIONS = {"HTTP/1.1": False, "HTTP/2": True}


@contextlib.contextmanager
def secure_gateway(upstream_port: str, folder: Path) -> Iterator[tuple[int, str, ssl.SSLContext]]:
    """A gateway with TLS: its process id, the address of its HTTP port, and whom to trust."""
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1")
    pair.private_key_pem.write_to_path(str(folder / "tls.key"))
    for number, blob in enumerate(pair.cert_chain_pems):
        blob.write_to_path(str(folder / "tls.crt"), append=number > 0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = free_port()
    file = folder / "moegate.yaml"
    listening = f'server: {{http_listen: "127.0.0.1:{port}", tls: {{cert: tls.crt, key: tls.key}}, '
    file.write_text(configuration(upstream_port).replace("server: {", listening))
    with process("-m", "moegate", "serve", str(file), "--log-level", "ERROR") as (running, _):
        yield running.pid, f"https://127.0.0.1:{port}", context


@contextlib.asynccontextmanager
async def caller(url: str, context: ssl.SSLContext, *, http2: bool) -> AsyncIterator[Call]:
    """Asks over one version of HTTP; raises unless the gateway speaks it."""
    headers = {"Authorization": f"Bearer {KEY}", "Accept-Encoding": "identity"}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(
        http2=http2, http1=not http2, verify=context, headers=headers, limits=limits, timeout=60
    ) as client:

        async def call(tokens: int, streamed: bool) -> None:
            body = {"model": "bench", CHAT.limit: tokens, "stream": streamed, **CHAT.fields}
            async with client.stream("POST", url + CHAT.path, json=body) as response:
                end = b""
                async for data in response.aiter_raw():
                    end = (end + data)[-4096:]
            if response.status_code != 200 or (streamed and CHAT.last not in end):
                raise RuntimeError(f"status {response.status_code}, ends in {end[-300:]!r}")
            if (response.http_version == "HTTP/2") != http2:
                raise RuntimeError(response.http_version)

        yield call


async def until_ready(call: Call) -> None:
    """Until the placement is in service. Raises the last failure after 10 s."""
    for _ in range(200):
        with contextlib.suppress(RuntimeError, httpx2.TransportError):
            return await call(1, False)
        await asyncio.sleep(0.05)
    await call(1, False)


async def measure(pace_s: float, rounds: int, found: Figures) -> None:
    """Adds the figures in front of an upstream with that pace, each round but the first."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = process(str(HERE / "upstream.py"), str(pace_s), "1")
        _, upstream_port = stack.enter_context(upstream)
        pid, url, context = stack.enter_context(secure_gateway(upstream_port, folder))
        calls = {
            name: await stack.enter_async_context(caller(url, context, http2=http2))
            for name, http2 in VERSIONS.items()
        }
        for call in calls.values():
            await until_ready(call)
        for turn in range(rounds + 1):
            for name, call in calls.items():
                if pace_s:
                    runs = {"token of a paced stream": side_by_side(call)}
                else:
                    runs = {
                        "unary request of 1 token": one_by_one(call, 1, streamed=False),
                        f"stream of {SHORT_TOKENS} tokens, no pace": one_by_one(
                            call, SHORT_TOKENS, streamed=True
                        ),
                    }
                await account(pid, name, runs, found if turn else None)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: Figures = defaultdict(lambda: defaultdict(list))
    for pace_s in (0.0, TOKEN_INTERVAL_S):
        uvloop.run(measure(pace_s, rounds, found))
    table = Table(title=f"TLS; CPU, µs: median of {rounds} rounds; ratio: of the same rounds")
    for column in ("", *VERSIONS, "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for what, by_version in found.items():
        one, two = (by_version[name] for name in VERSIONS)
        ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
        medians = (f"{statistics.median(each):,.0f}" for each in (one, two))
        table.add_row(what, *medians, f"{ratio:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
