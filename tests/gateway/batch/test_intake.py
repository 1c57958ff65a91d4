"""Lines and messages are the same in any chunks; a bad line is told by its number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.files import CHUNK_BYTES, Chunks, chunk_numbers
from gateway.batch.intake import (
    FRAME_HEAD,
    BadLine,
    Cut,
    FrameCutter,
    Intake,
    ItemHead,
    LineCutter,
    openai_line,
)
from gateway.batch.jobs import MOST_FAULTS, LineFault
from tests.gateway.batch.rig import CHAT, line

TEXTS = st.lists(st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"")), max_size=20)


def cut(cutter: LineCutter | FrameCutter, content: bytes, sizes: list[int]) -> list[Cut]:
    found: list[Cut] = []
    at = 0
    for size in sizes:
        found += cutter.add(content[at : at + size])
        at += size
    found += cutter.add(content[at:])
    return [*found, *cutter.end()]


@given(TEXTS, st.lists(st.integers(0, 30), max_size=30), st.booleans())
def test_lines_do_not_depend_on_chunks(texts: list[bytes], sizes: list[int], last: bool) -> None:
    content = b"\n".join(texts) + (b"\n" if last else b"")
    found = cut(LineCutter(100), content, sizes)
    expected = [(n, text) for n, text in enumerate(texts, 1) if text.strip()]
    assert [(each.number, each.content) for each in found] == expected
    for each in found:
        assert content[each.start_byte : each.start_byte + each.size_bytes] == each.content


@given(st.lists(st.binary(max_size=20), max_size=20), st.lists(st.integers(0, 30), max_size=30))
def test_messages_do_not_depend_on_chunks(texts: list[bytes], sizes: list[int]) -> None:
    content = b"".join(FRAME_HEAD.pack(len(text)) + text for text in texts)
    found = cut(FrameCutter(), content, sizes)
    assert [(each.number, each.content) for each in found] == list(enumerate(texts, 1))
    for each in found:
        assert content[each.start_byte : each.start_byte + each.size_bytes] == each.content


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_a_long_line_is_left_out_and_the_next_one_is_found(piece: int) -> None:
    content = b"a" * 10 + b"\n" + b"b" * 11 + b"\n" + b"c"
    cutter = LineCutter(10)
    found: list[Cut] = []
    for at in range(0, len(content), piece):
        found += cutter.add(content[at : at + piece])
    found += cutter.end()
    assert [(each.number, each.content) for each in found] == [(1, b"a" * 10), (2, None), (3, b"c")]
    assert found[1].size_bytes == 11
    assert found[2].start_byte == 23


@pytest.mark.parametrize("piece", [1, 2, 64])
def test_a_byte_order_mark_is_no_part_of_the_first_line(piece: int) -> None:
    mark = b"\xef\xbb\xbf"
    content = mark + b'{"a": 1}\r\n' + mark + b"b"
    found = cut(LineCutter(100), content, [piece] * 30)
    assert [each.content for each in found] == [b'{"a": 1}\r', mark + b"b"]
    for each in found:
        assert content[each.start_byte : each.start_byte + each.size_bytes] == each.content


@given(st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=5))
def test_chunks_hold_what_was_added(sizes: list[int]) -> None:
    chunks = Chunks()
    found = [each for size in sizes for each in chunks.add(bytes(size))]
    found += chunks.end()
    assert [number for number, _ in found] == list(range(len(found)))
    assert all(len(content) == CHUNK_BYTES for _, content in found[:-1])
    assert sum(len(content) for _, content in found) == chunks.size_bytes == sum(sizes)


@given(st.integers(0, 5 * CHUNK_BYTES), st.integers(1, 3 * CHUNK_BYTES))
def test_the_chunks_of_a_range_hold_it(start: int, size: int) -> None:
    numbers = chunk_numbers(start, size)
    assert numbers.start * CHUNK_BYTES <= start < (numbers.start + 1) * CHUNK_BYTES
    assert (numbers.stop - 1) * CHUNK_BYTES < start + size <= numbers.stop * CHUNK_BYTES


def test_a_good_line() -> None:
    head = openai_line(line("a", "text", model="m"), CHAT)
    assert (head.name, head.model) == ("a", "m")
    assert head.beginning.startswith(b'{"model": "m", "messages": [')


@pytest.mark.parametrize(
    ("content", "code", "param", "text"),
    [
        (b"{", "invalid_json_line", None, "the line is no JSON object"),
        (b"\xff", "invalid_json_line", None, "the line is no JSON object"),
        (b"[1]", "invalid_request", None, "the line: Expected `object`"),
        (b'{"custom_id": "a"}', "invalid_request", None, "missing required field `method`"),
        (line("a", body={"messages": []}), "invalid_request", None, "field `model`"),
        (line("", custom_id=7), "invalid_request", "custom_id", "custom_id: Expected `str`"),
        (line(""), "invalid_custom_id", "custom_id", "0 characters: give 1 to 256"),
        (line("a", method="GET"), "invalid_method", "method", "'GET': give POST"),
        (line("a", url="/v1/x"), "mismatched_endpoint", "url", f"give {CHAT}"),
        (
            line("a", body={"model": "m", "stream": True}),
            *("invalid_request", "body.stream", "a batch does not stream"),
        ),
        (line("a", model=""), "invalid_request", "body.model", "name a model"),
    ],
)
def test_a_bad_line_says_what_is_wrong(
    content: bytes, code: str, param: str | None, text: str
) -> None:
    with pytest.raises(BadLine, match=text.replace("`", ".")) as refused:
        openai_line(content, CHAT)
    assert (refused.value.fault.code, refused.value.fault.param) == (code, param)


def a_cut(number: int) -> Cut:
    return Cut(number, 0, 1, b"x")


def a_head(name: str) -> ItemHead:
    return ItemHead(name, "m", b"")


def test_the_second_of_a_custom_id_is_refused() -> None:
    intake = Intake(10)
    assert intake.item(a_cut(1), a_head("same")) is not None
    assert intake.item(a_cut(2), a_head("same")) is None
    assert intake.item(a_cut(3), a_head("other")) is not None
    assert (intake.items, intake.bad) == (2, 1)
    [fault] = intake.faults
    assert (fault.code, fault.line) == ("duplicate_custom_id", 2)


def test_lines_beyond_the_bound_are_refused_and_not_all_described() -> None:
    intake = Intake(2)
    made = [intake.item(a_cut(number), a_head(str(number))) for number in range(1, 301)]
    assert [item is not None for item in made] == [True] * 2 + [False] * 298
    assert (intake.bad, len(intake.faults)) == (298, MOST_FAULTS)
    assert intake.faults[0].code == "too_many_requests"


def test_a_fault_gets_the_number_of_its_line() -> None:
    intake = Intake(2)
    intake.refuse(9, LineFault(code="c", message="m"))
    assert intake.faults == [LineFault(code="c", message="m", line=9)]
