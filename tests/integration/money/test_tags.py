"""Labels and end users: from each door to the ledger and its reports."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from moegate.cli.main import main
from moegate.client import AsyncClient
from moegate.v1 import pooling_pb2, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.http_serving import serving_http
from tests.ledgers import a_nano_dollar_a_token
from tests.scripted import DONE, ROLE, Scripted, listening, word
from tests.serving import KEY, METADATA, MODEL, chat_request, read_stream

ANSWER = [ROLE, word(1), word(2, b'"length"'), DONE]
"""5 tokens of prompt, 2 of output."""
HI: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
SEARCH = {"x-moegate-labels": "team=search, app=chat"}
CLAUDE_CODE = json.dumps({"device_id": "d1", "account_uuid": "u2", "session_id": "s"})
CALLS: tuple[tuple[str, dict[str, Any], dict[str, str]], ...] = (
    ("/v1/chat/completions", {**HI, "user": "u1"}, SEARCH),
    ("/v1/chat/completions", {**HI, "user": "u0", "safety_identifier": "u1"}, SEARCH),
    ("/v1/chat/completions", {**HI, "user": ["no", "text"]}, {}),
    ("/v1/completions", {"model": MODEL, "prompt": "hi", "user": "u1"}, {}),
    ("/v1/responses", {"model": MODEL, "input": "hi", "safety_identifier": "u1"}, SEARCH),
    ("/v1/messages", {**HI, "max_tokens": 2, "metadata": {"user_id": CLAUDE_CODE}}, {}),
    (
        "/v1/messages",
        {**HI, "max_tokens": 2, "metadata": {"user_id": "u1"}},
        {"x-moegate-end-user": "u3", "x-moegate-labels": "team=ads"},
    ),
)
EXPECTED_USERS = {"u1": 4, "": 1, "u2": 1, "u3": 1, "u4": 1, "u5": 1}
EXPECTED_TEAMS = {"search": 3, "ads": 2}


async def test_tags_reach_the_ledger_and_its_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Scripted(frames=ANSWER)
    async with listening(script):
        config = serving.config(pools=[serving.pool([script.url])], interactive=serving.PATIENT)
        async with serving_http(config) as http:
            a_nano_dollar_a_token(http.gateway)
            for path, body, headers in CALLS:
                async with http.session.post(http.url + path, json=body, headers=headers) as made:
                    assert made.status == 200, await made.text()
            request = chat_request(labels={"team": "ads"}, end_user="u4")
            await read_stream(http.serving.stub.Generate(request, metadata=METADATA))
            target = http.gateway.address
            async with AsyncClient(target, key=KEY) as client:
                await client.chat(MODEL, "hi", labels={"app": "cron"}, end_user="u5")

            stub = usage_pb2_grpc.UsageServiceStub(http.serving.channel)

            async def spend(group: str, label: str = "") -> dict[str, int]:
                asked = usage_pb2.GetSpendRequest(group_by=[group], label=label)
                answer = await stub.GetSpend(asked, metadata=METADATA)
                assert all(row.charged_nano_usd > 0 for row in answer.rows)
                return {row.group[0]: row.requests for row in answer.rows}

            async with asyncio.timeout(serving.READY_S):
                while await spend("SPEND_GROUP_END_USER") != EXPECTED_USERS:
                    await asyncio.sleep(0.05)
            assert await spend("SPEND_GROUP_LABEL", label="team") == EXPECTED_TEAMS
            assert await spend("SPEND_GROUP_LABEL", label="app") == {"chat": 3, "cron": 1}
            assert await spend("SPEND_GROUP_LABEL", label="other") == {}

            monkeypatch.setenv("MOEGATE_API_KEY", KEY)
            by = ("--by", "label:team,end_user", "--json", "--target", target)
            status = await asyncio.to_thread(main, ["usage", "spend", *by])
            rows = json.loads(capsys.readouterr().out)["rows"]
            assert status == 0
            assert sorted(
                (row["label:team"], row["end_user"], row["requests"]) for row in rows
            ) == [
                ("ads", "u3", 1),
                ("ads", "u4", 1),
                ("search", "u1", 3),
            ]
            only = ("--label", "team=search", "--label", "app=chat", "--json", "--target", target)
            status = await asyncio.to_thread(main, ["usage", "requests", *only])
            assert (status, len(json.loads(capsys.readouterr().out))) == (0, 3)
            mine = ("--end-user", "u4", "--json", "--target", target)
            status = await asyncio.to_thread(main, ["usage", "requests", *mine])
            assert (status, len(json.loads(capsys.readouterr().out))) == (0, 1)
            wrong = usage_pb2.ListRequestsRequest(labels={"a'b": "x"})
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListRequests(wrong, metadata=METADATA)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("groups", "label"),
    [(["SPEND_GROUP_LABEL"], ""), (["SPEND_GROUP_LABEL"], "a'b"), (["SPEND_GROUP_KEY"], "team")],
)
async def test_a_report_by_label_names_the_label(groups: list[str], label: str) -> None:
    async with serving.serving(serving.config(), ready=False) as running:
        stub = usage_pb2_grpc.UsageServiceStub(running.channel)
        asked = usage_pb2.GetSpendRequest(group_by=groups, label=label)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetSpend(asked, metadata=METADATA)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "label: " in str(caught.value.details())


async def test_tags_that_cannot_be_kept_are_refused() -> None:
    async with serving_http(serving.config(), ready=False) as http:
        for headers in (
            {"x-moegate-labels": "team"},
            {"x-moegate-labels": "team=a,team=b"},
            {"x-moegate-labels": "Team=a"},
            {"x-moegate-end-user": "x" * 129},
        ):
            async with http.session.post(
                f"{http.url}/v1/chat/completions", json=HI, headers=headers
            ) as response:
                assert response.status == 400
                assert next(iter(headers)) in (await response.json())["error"]["message"]
        request = chat_request(labels={"Team": "a"}, end_user="a\nb")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(http.serving.stub.Generate(request, metadata=METADATA))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for field in ("labels: ", "end_user: "):
            assert field in str(caught.value.details())
        embed = pooling_pb2.EmbedRequest(model=MODEL, labels={"": "a"})
        with pytest.raises(grpc.aio.AioRpcError) as embedded:
            await http.serving.stub.Embed(embed, metadata=METADATA)
        assert "labels: " in str(embedded.value.details())
