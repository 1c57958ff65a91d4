"""How received bytes become runs of whole frames, and what a client may spend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.http.http2.frames import (
    BURST_POINTS,
    MAX_BLOCK_BYTES,
    MAX_FRAME_BYTES,
    POINTS_PER_S,
    RUN_FRAMES,
    Flood,
    FrameCutter,
)
from tests.raw_http2 import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
)


def runs(cutter: FrameCutter, now_s: float = 0.0) -> list[bytes]:
    found = []
    while run := cutter.run(now_s):
        found.append(run)
    return found


def begun() -> FrameCutter:
    cutter = FrameCutter(0.0)
    cutter.feed(PREFACE)
    assert runs(cutter) == [PREFACE]
    return cutter


FRAMES = st.lists(
    st.builds(
        frame,
        st.sampled_from([DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION, 77]),
        st.binary(max_size=400),
        flags=st.integers(0, 255),
        stream=st.integers(0, 9),
    ),
    max_size=60,
)


@given(FRAMES, st.lists(st.integers(1, 500), max_size=30))
def test_however_the_bytes_come_whole_frames_go_on(frames: list[bytes], cuts: list[int]) -> None:
    sent = PREFACE + b"".join(frames)
    cutter, found, start = FrameCutter(0.0), [], 0
    for cut in (*cuts, len(sent)):
        cutter.feed(sent[start : start + cut])
        start += cut
        found += runs(cutter)
    assert b"".join(found) == sent
    assert cutter.kept_bytes == 0
    ends = {0, len(PREFACE)}
    for each in frames:
        ends.add(max(ends) + len(each))
    position = 0
    for run in found:
        position += len(run)
        assert position in ends, "a run ends where a frame ends"


def test_a_run_is_bounded() -> None:
    cutter = begun()
    cutter.feed(frame(PING, bytes(8)) * 100)
    assert [len(run) // 17 for run in runs(cutter)] == [RUN_FRAMES] * 3 + [4]
    cutter.feed(frame(DATA, bytes(MAX_FRAME_BYTES), stream=1) * 10)
    assert max(map(len, runs(cutter))) <= 65_536 + MAX_FRAME_BYTES
    cutter.feed(frame(HEADERS, bytes(1500), flags=4, stream=1) * 4)
    assert [len(run) // 1500 for run in runs(cutter)] == [2, 2]


def test_a_part_of_a_frame_waits() -> None:
    cutter = begun()
    whole = frame(PING, bytes(8))
    cutter.feed(whole + whole[:5])
    assert runs(cutter) == [whole]
    cutter.feed(whole[5:])
    assert runs(cutter) == [whole]


def test_a_frame_that_is_too_long_is_cut() -> None:
    cutter = begun()
    cutter.feed(frame(DATA, bytes(MAX_FRAME_BYTES + 1), stream=1)[:100])
    assert len(cutter.run(0.0)) == 9, "its head is enough for the library to refuse it"


def test_a_goodbye_ends_nothing() -> None:
    cutter = begun()
    ping = frame(PING, bytes(8))
    cutter.feed(ping + frame(GOAWAY, bytes(8)) + ping)
    assert b"".join(runs(cutter)) == ping * 2
    for _ in range(5):
        cutter.feed(frame(GOAWAY, bytes(8)))
        assert runs(cutter) == []


@pytest.mark.parametrize(
    ("costly", "points"),
    [
        (frame(PING, bytes(8)), 1),
        (frame(RST_STREAM, bytes(4), stream=1), 3),
        (frame(SETTINGS), 10),
        (frame(DATA, b"a", stream=1), 1),
        (frame(DATA, b"", stream=1), 1),
        (frame(GOAWAY, bytes(8)), 1),
        (frame(99, b"unknown"), 1),
    ],
)
def test_frames_of_no_use_are_limited(costly: bytes, points: float) -> None:
    cutter = begun()
    most = int(BURST_POINTS // points)
    cutter.feed(costly * most)
    runs(cutter)
    cutter.feed(costly)
    with pytest.raises(Flood):
        cutter.run(0.0)


def test_what_is_spent_comes_back_with_time_and_with_output() -> None:
    cutter = begun()
    ping = frame(PING, bytes(8))
    cutter.feed(ping * int(BURST_POINTS))
    runs(cutter)
    cutter.feed(ping * int(POINTS_PER_S))
    runs(cutter, now_s=1.0)
    cutter.sent(25)
    cutter.feed(ping * 100)
    runs(cutter, now_s=1.0)
    cutter.feed(ping)
    with pytest.raises(Flood):
        cutter.run(1.0)


def test_requests_and_bodies_cost_nothing() -> None:
    cutter = begun()
    for _ in range(20):
        cutter.feed(frame(HEADERS, bytes(50), flags=4, stream=1) * 100)
        cutter.feed(frame(DATA, bytes(256), stream=1) * 100)
        cutter.feed(frame(DATA, b"a", flags=1, stream=1) * 100)
        runs(cutter)


def test_a_block_of_headers_is_bounded() -> None:
    cutter = begun()
    cutter.feed(frame(HEADERS, bytes(16_000), stream=1))
    cutter.feed(frame(CONTINUATION, bytes(16_000), stream=1) * 4)
    with pytest.raises(Flood, match=str(MAX_BLOCK_BYTES)):
        runs(cutter)
