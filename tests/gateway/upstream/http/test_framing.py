"""Answers of HTTP/1.1 in pieces of any size: where they end, and what is no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.http.framing import (
    MAX_CHUNK_LINE_BYTES,
    MAX_HEAD_BYTES,
    AnswerParser,
    NotHttp,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def parsed(*pieces: bytes) -> tuple[AnswerParser, bytes]:
    parser = AnswerParser()
    return parser, b"".join(parser.feed(piece) for piece in pieces)


@pytest.mark.parametrize(
    ("answer", "body", "keeps_alive"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
        (OK + b"Content-Length: 0\r\n\r\n", b"", True),
        (OK + b"content-length: 2, 2\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (
            b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nhi",
            b"hi",
            True,
        ),
        (OK + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello", True),
        (CHUNKED + b"5;a=b\r\nhello\r\n1 \r\n!\r\n0\r\nX: y\r\n\r\n", b"hello!", True),
        (CHUNKED.replace(b"\r\n", b"\n") + b"5\nhello\n0\n\n", b"hello", True),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            b"hi",
            True,
        ),
        # Both lengths: the chunks count, and the connection is not trusted any more.
        (
            OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            b"hi",
            False,
        ),
    ],
)
def test_an_answer_ends_where_its_head_says(answer: bytes, body: bytes, keeps_alive: bool) -> None:
    for pieces in ([answer], [answer[i : i + 1] for i in range(len(answer))]):
        parser, got = parsed(*pieces)
        assert (got, parser.complete, parser.keeps_alive) == (body, True, keeps_alive)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.lists(st.integers(min_value=1, max_value=30), max_size=60),
)
def test_pieces_of_any_size_give_the_same_body(chunks: list[bytes], sizes: list[int]) -> None:
    answer = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    pieces, at = [], 0
    for size in [*sizes, len(answer)]:
        pieces.append(answer[at : at + size])
        at += size
    parser, got = parsed(*pieces)
    assert (got, parser.complete, parser.keeps_alive) == (b"".join(chunks), True, True)


@pytest.mark.parametrize("head", [b"", b"Transfer-Encoding: identity\r\n"])
def test_without_a_length_the_body_ends_with_the_connection(head: bytes) -> None:
    parser, got = parsed(OK + head + b"\r\nab", b"cd")
    assert (got, parser.complete, parser.ends_with_connection) == (b"abcd", False, True)
    assert not parser.keeps_alive


@pytest.mark.parametrize("sent", [CHUNKED + b"5\r\nhel", OK + b"Content-Length: 5\r\n\r\nhel", OK])
def test_a_body_with_a_length_does_not_end_with_the_connection(sent: bytes) -> None:
    parser, _ = parsed(sent)
    assert not parser.complete
    assert not parser.ends_with_connection


@pytest.mark.parametrize("whole", [CHUNKED + b"0\r\n\r\n", OK + b"Content-Length: 0\r\n\r\n"])
def test_bytes_behind_an_answer_spoil_the_connection(whole: bytes) -> None:
    parser, got = parsed(whole + b"HTTP/1.1 200 OK\r\n\r\n")
    assert (got, parser.complete, parser.keeps_alive) == (b"", True, False)


def test_fields_are_read_leniently() -> None:
    parser, _ = parsed(OK + b"X-A:  one \r\n\ttwo\r\nx-a: \xff\r\nContent-Length:0\r\n\r\n")
    assert parser.headers.getall("X-A") == ["one  two", "\udcff"]
    assert parser.complete


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        OK + b"no field\r\n\r\n",
        OK + b"Na me: x\r\n\r\n",
        OK + b"Content-Length: +5\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999\r\n\r\n",
        CHUNKED + b"-5\r\n",
        CHUNKED + b"0x5\r\n",
        CHUNKED + b"5\r\nhelloX",
        CHUNKED + b"5\r\nhello\rX",
        CHUNKED + b"5" * (MAX_CHUNK_LINE_BYTES + 1),
        CHUNKED + b"0\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES,
        OK + b"X: " + b"y" * MAX_HEAD_BYTES,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * MAX_HEAD_BYTES,
    ],
)
def test_what_is_no_answer_is_refused(sent: bytes) -> None:
    with pytest.raises(NotHttp):
        parsed(*(sent[i : i + 8192] for i in range(0, len(sent), 8192)))
