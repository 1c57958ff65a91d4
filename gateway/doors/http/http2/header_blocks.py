"""Headers of HTTP/2: requests as aiohttp knows them, and answers in the cheapest encoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import hpack
from aiohttp.http import HttpVersion, RawRequestMessage
from hpack.hpack import encode_integer
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

HTTP2 = HttpVersion(2, 0)
_OF_CONNECTIONS = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
"""Headers that mean a connection of HTTP/1.1, and are forbidden in HTTP/2."""
_NO_TABLE = b"\x20"
"""Dynamic table of size 0: the first block says so."""
_KEPT = 512
_KEPT_CHARACTERS = 256


class Malformed(Exception):
    """The headers make no request."""


def request_message(headers: Iterable[tuple[bytes, bytes]]) -> RawRequestMessage:
    """The head of a request. `headers`: as the library has validated them. Raises Malformed."""
    pseudo: dict[bytes, str] = {}
    named: CIMultiDict[str] = CIMultiDict()
    raw: list[tuple[bytes, bytes]] = []
    cookies: list[str] = []
    for name, value in headers:
        text = value.decode("utf-8", "surrogateescape")
        if name[:1] == b":":
            pseudo[name] = text
        elif name == b"cookie":
            cookies.append(text)
        else:
            raw.append((name, value))
            named.add(name.decode("utf-8", "surrogateescape"), text)
    if cookies:
        named["Cookie"] = "; ".join(cookies)
    if b":authority" in pseudo:
        named["Host"] = pseudo[b":authority"]
    path = pseudo.get(b":path", "")
    if not path.startswith("/"):
        raise Malformed("the path does not begin with /")
    before, _, query = path.partition("#")[0].partition("?")
    return RawRequestMessage(
        pseudo[b":method"],
        path,
        HTTP2,
        CIMultiDictProxy(named),
        tuple(raw),
        False,
        None,
        False,
        False,
        URL.build(path=before, query_string=query, encoded=True),
    )


def answer_headers(status: int, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, with its status first."""
    found = [(b":status", b"%d" % status)]
    for name, value in headers.items():
        lower = name.lower()
        if lower not in _OF_CONNECTIONS:
            found.append((lower.encode(), value.encode("utf-8", "surrogateescape")))
    return found


class PlainEncoder(hpack.Encoder):
    """Encodes headers as they are, without a table and without Huffman's code: the answers' headers
    are few, and the library's encoder would take most of the time of a small answer."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    def encode(self, headers: Iterable[Any], huffman: bool = False) -> bytes:
        """The block of these headers. `huffman` is not used."""
        first = b"" if self._begun else _NO_TABLE
        self._begun = True
        return first + b"".join([_field(name, value) for name, value in headers])


def _field(name: bytes, value: bytes) -> bytes:
    if len(value) > _KEPT_CHARACTERS:
        return b"\0" + _text(name) + _text(value)
    return b"\0" + _kept(name) + _kept(value)


def _text(text: bytes) -> bytes:
    return bytes(encode_integer(len(text), 7)) + text


@lru_cache(_KEPT)
def _kept(text: bytes) -> bytes:
    return _text(text)
