"""The feed's cursors, its bound, and the route that serves it (without vLLM)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moegate.vllm_plugin import feed as feeds
from moegate.vllm_plugin.feed import Feed, FinishedRequest, Step
from moegate.vllm_plugin.route import StepsRoute, is_authorized


def step(sequences: int) -> Step:
    return Step(
        engine=0,
        at_s=1.0,
        prefill_requests=0,
        prefill_tokens=0,
        prompt_tokens=None,
        decode_requests=sequences,
        decode_tokens=sequences,
        output_tokens=sequences,
        elapsed_s=0.0041234567,
        period_s=0.0045,
        dummy=False,
        running=sequences,
        waiting=0,
        kv_usage=0.25,
        preemptions=0,
    )


FINISHED = FinishedRequest(0, 2.0, "cmpl-a-0", "stop", 9, 0, 4, 0, 0.1, 0.2, 0.3, 0.1)


def answer(feed: Feed, *cursors: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(feed.answer(list(cursors)))
    return read


def sizes(read: dict[str, Any]) -> list[int]:
    column = read["step_fields"].index("decode_requests")
    return [row[column] for row in read["steps"]]


def test_a_cursor_continues_where_the_last_answer_ended() -> None:
    feed = Feed()
    for entry in (step(1), FINISHED, step(2)):
        feed.add(entry)
    first = answer(feed)
    assert (sizes(first), len(first["requests"]), first["lost"]) == ([1, 2], 1, 0)
    assert dict(zip(first["request_fields"], first["requests"][0], strict=True))["id"] == "cmpl-a-0"
    feed.add(step(3))
    cursor = f"{feed.instance}.{first['next']}"
    assert sizes(answer(feed, "0123.7", cursor)) == [3]
    assert sizes(answer(feed, f"{feed.instance}.4")) == []
    # A cursor from a time that has not come, of another process, or garbled.
    assert sizes(answer(feed, f"{feed.instance}.{10**30}")) == []
    assert sizes(answer(feed, "0123.4", "", "x", f"{feed.instance}.-1")) == [1, 2, 3]


def test_entries_that_made_room_are_counted_as_lost() -> None:
    feed = Feed(most_kept=4)
    for sequences in range(10):
        feed.add(step(sequences))
    read = answer(feed, f"{feed.instance}.3")
    assert (sizes(read), read["lost"], read["next"]) == ([6, 7, 8, 9], 3, 10)
    assert answer(feed)["lost"] == 0


def test_an_answer_is_bounded_and_says_that_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST_TOLD", 3)
    feed = Feed()
    for sequences in range(5):
        feed.add(step(sequences))
    read = answer(feed)
    assert (sizes(read), read["more"]) == ([0, 1, 2], True)
    read = answer(feed, f"{feed.instance}.{read['next']}")
    assert (sizes(read), read["more"]) == ([3, 4], False)


async def called(
    route: StepsRoute, key: str | None, *, path: str = feeds.PATH, method: str = "GET"
) -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"after=0.0",
        "headers": headers,
    }
    await route(scope, None, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def not_found(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})


@pytest.mark.parametrize("variable", ["VLLM_API_KEY", "MOEGATE_FEED_KEY"])
async def test_the_route_needs_the_key(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_API_KEY", "MOEGATE_FEED_KEY"):
        monkeypatch.delenv(name, raising=False)
    keyless = StepsRoute(not_found)
    assert (await called(keyless, "anything"))[0] == 404
    monkeypatch.setenv(variable, "right")
    route = StepsRoute(not_found)
    assert [(await called(route, key))[0] for key in ("right", "wrong", "", None)] == [
        *(200, 401, 401, 401)
    ]
    assert json.loads((await called(route, "right"))[1])["format"] == 1
    assert (await called(route, "right", path="/v1/models"))[0] == 404
    assert (await called(route, "right", method="POST"))[0] == 404


def test_keys_are_compared_as_bytes() -> None:
    assert is_authorized("bearer schlüssel".encode(), ["other", "schlüssel"])
    assert not is_authorized(b"Basic right", ["right"])
