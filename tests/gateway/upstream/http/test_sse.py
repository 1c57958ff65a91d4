"""Events out of bytes that are split anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.http.sse import EventTooLarge, SseReader


def events(*pieces: bytes) -> list[bytes]:
    reader = SseReader()
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\ndata: b\n\r", [b"a", b"b"]),
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\ndata:\n\n", [b"a\n"]),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b": ping\n\ndata: a\n\n", [b"a"]),
        (b": ping\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 7\nretry: 1\ndata: a\n\n", [b"a"]),
        (b"database: a\n\nDATA: a\n\n data: a\n\n", []),
        (b"\n\n\ndata: a\n\n\n\ndata: b\n\n\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b'data: {"a": "b:c"}\n\n', [b'{"a": "b:c"}']),
        (b"data: a\n", []),
        (b"", []),
    ],
)
def test_what_the_standard_says(stream: bytes, expected: list[bytes]) -> None:
    assert events(stream) == expected
    assert events(*(stream[i : i + 1] for i in range(len(stream)))) == expected


def test_characters_may_be_split() -> None:
    stream = "data: 🦀\n\n".encode()
    assert events(stream[:8], stream[8:]) == ["🦀".encode()]


def test_pending_tells_an_event_that_was_cut() -> None:
    reader = SseReader()
    assert not reader.pending
    reader.feed(b"data: a\n")
    assert reader.pending
    reader.feed(b"\n")
    assert not reader.pending
    reader.feed(b"\n")
    assert not reader.pending
    assert SseReader().feed(b"\xef") == []


def test_a_part_of_a_byte_order_mark_is_pending() -> None:
    reader = SseReader()
    reader.feed(b"\xef\xbb")
    assert reader.pending


def test_an_event_is_bounded() -> None:
    reader = SseReader(max_event_bytes=10)
    assert reader.feed(b"data: 6789\n\n") == [b"6789"]
    with pytest.raises(EventTooLarge, match="more than 10 bytes"):
        reader.feed(b"data: 67890\n\n")


def test_an_event_without_end_is_bounded() -> None:
    reader = SseReader(max_event_bytes=10)
    assert reader.feed(b"data: 6789\n") == []
    with pytest.raises(EventTooLarge):
        reader.feed(b"more")


LINES = st.sampled_from(
    [b"data: x", b"data:y", b"data", b"data: \xf0\x9f\xa6\x80", b": c", b"id: 1", b"", b"", b"\xef"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.builds(
    lambda bom, parts: bom + b"".join(parts),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=20),
)


def by_the_letter(stream: bytes) -> list[bytes]:
    """The standard's algorithm, line by line."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found: list[bytes] = []
    data: list[bytes] = []
    for line in text.split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        if not line and data:
            found.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return found


@given(stream=STREAMS, data=st.data())
def test_any_split_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert events(*pieces) == events(stream) == by_the_letter(stream)


def test_data_lines_are_told_from_fields_with_similar_names() -> None:
    reader = SseReader()
    block = b"data\ndatabase: no\n data: no\nid: data: no\ndata:a\ndata:  b\ndata: \n\n"
    assert reader.feed(block) == [b"\na\n b\n"]
