"""Where a request goes: the server of a URL, and what its request line and Host header say."""

from __future__ import annotations

import functools
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple

USER_AGENT = "moegate"
_SAFE = "/?%:@!$&'()*+,;=~-._[]"
"""Characters of a path and query that stay as they are, percent signs included."""


class Origin(NamedTuple):
    """A server. `host`: an ASCII name or an address without brackets."""

    host: str
    port: int
    is_tls: bool


@functools.lru_cache(maxsize=4096)
def target_of(url: str) -> tuple[Origin, str]:
    """The server of an http(s) URL, and the value of `Host` and the path as lines of a request.
    Raises ValueError."""
    parts = urllib.parse.urlsplit(url)
    is_tls = parts.scheme == "https"
    host = parts.hostname or ""
    if (not is_tls and parts.scheme != "http") or not host:
        raise ValueError(f"no http or https address: {url}")
    if not host.isascii():
        host = host.encode("idna").decode()
    usual_port = 443 if is_tls else 80
    port = usual_port if parts.port is None else parts.port
    name = f"[{host}]" if ":" in host else host
    host_line = name if port == usual_port else f"{name}:{port}"
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    quoted = urllib.parse.quote(path, safe=_SAFE)
    return Origin(host, port, is_tls), f"{quoted} HTTP/1.1\r\nHost: {host_line}\r\n"


def request_head(
    method: str, rest_of_line: str, headers: Mapping[str, str], body_bytes: int | None
) -> bytes:
    """The head of a request. `rest_of_line`: from `target_of`. Raises ValueError for a line break
    in a header, which would be a header of its own."""
    lines = [f"{method} {rest_of_line}User-Agent: {USER_AGENT}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body_bytes is not None:
        lines.append(f"Content-Length: {body_bytes}")
    head = "\r\n".join(lines)
    breaks = len(lines) + 1  # `rest_of_line` has two of them
    if head.count("\r") != breaks or head.count("\n") != breaks or "\0" in head:
        raise ValueError("a header of the request has a line break")
    return f"{head}\r\n\r\n".encode()
