"""Conversations that stay with a remote or move to another one, before servers that refuse wrong
histories."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2

from gateway.config.gateway import (
    HeaderConfig,
    KeyConfig,
    RemoteConfig,
    SecretConfig,
    TenantConfig,
)
from gateway.config.remote import Feature, RemoteApi, SessionHintConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.fleet.remotes import remote_connection
from moegate.v1 import chat_pb2 as chat
from moegate.v1 import generation_pb2 as pb
from moegate.v1 import inference_pb2
from tests import serving
from tests.serving import METADATA, MODEL, Serving
from tests.strict_servers import (
    ANSWER,
    KINDS,
    PLACEHOLDER,
    REASONING,
    Anthropic,
    DeepSeek,
    Gemini,
    OpenRouter,
    Plain,
    StrictServer,
    strict_server,
)

TOOL = chat.ToolDefinition(name="look")
SIGNING = (Gemini, OpenRouter, Anthropic)
SECRET = "a-secret-of-all-gateways"


def remote_of(server: StrictServer, name: str = "far", **fields: object) -> RemoteConfig:
    made = RemoteConfig(
        name=name,
        remote_class=name,
        model=MODEL,
        api=server.api,
        url=server.url,
        history=server.history,
    )
    return msgspec.structs.replace(made, **fields)


@contextlib.asynccontextmanager
async def gateway(*remotes: RemoteConfig) -> AsyncIterator[Serving]:
    async with serving.serving(serving.config(remotes=remotes)) as served:
        yield served


def user(text: str = "What is it?") -> chat.ChatMessage:
    return chat.ChatMessage(role=chat.ROLE_USER, parts=[chat.ContentPart(text=text)])


def request(*messages: chat.ChatMessage, **fields: object) -> pb.GenerateRequest:
    asked = chat.ChatInput(messages=messages or [user()], tools=[TOOL])
    return pb.GenerateRequest(model=MODEL, chat=asked, max_output_tokens=16, **fields)  # type: ignore[arg-type]


async def ask(served: Serving, asked: pb.GenerateRequest, *, unary: bool) -> pb.ChoiceDelta:
    """The whole answer; a stream is assembled as clients do."""
    if unary:
        once = inference_pb2.GenerateOnceRequest(request=asked)
        answer = await served.stub.GenerateOnce(once, metadata=METADATA, timeout=30)
        return answer.choices[0]
    whole, calls = pb.ChoiceDelta(), dict[int, chat.ToolCall]()
    async for message in served.stub.Generate(asked, metadata=METADATA, timeout=30):
        for delta in message.delta.choices:
            whole.text += delta.text
            whole.reasoning_text += delta.reasoning_text
            whole.signatures.extend(delta.signatures)
            for piece in delta.tool_calls:
                call = calls.setdefault(piece.index, chat.ToolCall(index=piece.index))
                call.id, call.name = call.id or piece.id, call.name or piece.name
                call.arguments_json += piece.arguments_json
                call.signatures.extend(piece.signatures)
    whole.tool_calls.extend(calls.values())
    return whole


def said(answer: pb.ChoiceDelta) -> chat.ChatMessage:
    """The answer as a message of the next request."""
    return chat.ChatMessage(
        role=chat.ROLE_ASSISTANT,
        parts=[chat.ContentPart(text=answer.text)] if answer.text else [],
        reasoning_text=answer.reasoning_text,
        tool_calls=answer.tool_calls,
        signatures=answer.signatures,
    )


def result_of(answer: pb.ChoiceDelta) -> chat.ChatMessage:
    (call,) = answer.tool_calls
    return chat.ChatMessage(
        role=chat.ROLE_TOOL, parts=[chat.ContentPart(text="42")], tool_call_id=call.id
    )


async def talk(
    served: list[Serving], *, unary: bool, turns: int = 2
) -> tuple[list[chat.ChatMessage], list[pb.ChoiceDelta]]:
    """A conversation of some questions, each answered by a tool call and then a text. The requests
    go to the gateways in turn."""
    messages: list[chat.ChatMessage] = []
    answers: list[pb.ChoiceDelta] = []
    for turn in range(turns):
        messages.append(user(f"Question {turn}"))
        for _ in range(2):
            where = served[len(answers) % len(served)]
            answers.append(await ask(where, request(*messages), unary=unary))
            messages.append(said(answers[-1]))
            if answers[-1].tool_calls:
                messages.append(result_of(answers[-1]))
    return messages, answers


@pytest.mark.parametrize("unary", [False, True], ids=["stream", "unary"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_goes_on_at_its_server(kind: type[StrictServer], unary: bool) -> None:
    async with strict_server(kind) as server, gateway(remote_of(server)) as served:
        _, answers = await talk([served], unary=unary)
    assert [answer.text for answer in answers] == ["", ANSWER, "", ANSWER]
    sent = json.dumps(server.bodies[-1])
    mine = [signature for signature in server.made if signature in sent]
    expected = {Gemini: 3, OpenRouter: 4, Anthropic: 6}.get(kind, len(mine))  # ids of calls, too
    assert len(mine) == expected, "everything that was signed so far, once"
    # To repeat the request changes nothing.
    assert (
        server.bodies[-1]["messages"][: len(server.bodies[-2]["messages"])]
        == (server.bodies[-2]["messages"])
    )


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
async def test_a_conversation_moves_to_another_server_and_back(
    first: type[StrictServer], second: type[StrictServer]
) -> None:
    async with (
        strict_server(first) as one,
        strict_server(second) as other,
        gateway(remote_of(one)) as before,
        gateway(remote_of(other)) as after,
    ):
        # Questions go to the one, results of tools to the other.
        _, answers = await talk([before, after], unary=False, turns=3)
    assert [answer.text for answer in answers] == ["", ANSWER] * 3
    foreign = {each for each in one.made if not each.startswith("toolu_")}  # ids of calls go on
    sent = json.dumps(other.bodies)
    assert not [signature for signature in foreign if signature in sent]


async def test_what_each_server_gets_of_the_reasoning() -> None:
    call = chat.ToolCall(id="c1", name="look", arguments_json="{}")
    messages = (
        user(),
        chat.ChatMessage(role=chat.ROLE_ASSISTANT, tool_calls=[call], reasoning_text=REASONING),
        chat.ChatMessage(
            role=chat.ROLE_TOOL, parts=[chat.ContentPart(text="42")], tool_call_id="c1"
        ),
        chat.ChatMessage(
            role=chat.ROLE_ASSISTANT,
            parts=[chat.ContentPart(text="42")],
            reasoning_text=REASONING,
        ),
        user("Why?"),
    )
    turns = {}
    for kind in KINDS:
        async with strict_server(kind) as server, gateway(remote_of(server)) as served:
            await ask(served, request(*messages), unary=True)
            turns[kind] = [m for m in server.bodies[0]["messages"] if m["role"] == "assistant"]
    assert [turn.get("reasoning_content") for turn in turns[DeepSeek]] == [REASONING, None]
    for turn in (*turns[Plain], *turns[Gemini], *turns[OpenRouter]):
        assert REASONING not in json.dumps(turn)
    (unsigned,) = turns[Gemini][0]["tool_calls"]
    assert unsigned["extra_content"] == {"google": {"thought_signature": PLACEHOLDER}}


async def test_known_hosts_need_no_configuration() -> None:
    for kind, url in (
        (DeepSeek, "https://api.deepseek.com"),
        (Gemini, "https://generativelanguage.googleapis.com"),
    ):
        made = RemoteConfig(name="far", remote_class="eu", model=MODEL, url=url)
        assert remote_connection(made, Path.cwd()).history == kind.history


@pytest.mark.parametrize("kind", SIGNING)
async def test_the_session_stays_where_its_reasoning_was_signed(
    kind: type[StrictServer],
) -> None:
    async with (
        strict_server(kind) as signer,
        strict_server(kind) as twin,
        gateway(remote_of(signer, "signer"), remote_of(twin, "twin")) as served,
    ):
        for here, policy in ((signer, "signer"), (twin, "twin")) * 3:
            only = pb.DataPolicy(remote_classes=[policy])
            answer = await ask(served, request(data_policy=only), unary=True)
            calls = len(here.bodies)
            await ask(served, request(user(), said(answer), result_of(answer)), unary=True)
            assert len(here.bodies) == calls + 1, "it went on elsewhere"


@pytest.mark.parametrize("kind", SIGNING)
async def test_signatures_pass_through_another_gateway(kind: type[StrictServer]) -> None:
    async with strict_server(kind) as server, gateway(remote_of(server)) as inner:
        outer_remote = RemoteConfig(
            name="inner",
            remote_class="eu",
            model=MODEL,
            api=RemoteApi.MOEGATE,
            url=f"grpc://{inner.gateway.address}",
            headers=(HeaderConfig(name="authorization-test", value="x"),),
            api_key=SecretConfig(env="MOEGATE_TEST_INNER"),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MOEGATE_TEST_INNER", serving.KEY)
            async with gateway(outer_remote) as outer:
                _, answers = await talk([outer], unary=False)
    assert [answer.text for answer in answers] == ["", ANSWER, "", ANSWER]


def hinting(monkeypatch: pytest.MonkeyPatch, **where: str) -> SessionHintConfig:
    monkeypatch.setenv("MOEGATE_TEST_HINT", SECRET)
    made = SessionHintConfig(secret=SecretConfig(env="MOEGATE_TEST_HINT"))
    return msgspec.structs.replace(made, **where)


def hint_of(tenant: str, session: str) -> str:
    text = f"{tenant}\0{session}".encode()
    return hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()[:32]


@pytest.mark.parametrize(
    ("kind", "where", "path"),
    [
        (Plain, {"header": "x-session-id"}, ()),
        (Plain, {"body_field": "prompt_cache_key"}, ("prompt_cache_key",)),
        (Anthropic, {"body_field": "metadata.user_id"}, ("metadata", "user_id")),
        (Anthropic, {"header": "x-session-affinity"}, ()),
    ],
)
async def test_a_remote_gets_a_hint_of_the_session_and_never_the_session(
    kind: type[StrictServer],
    where: dict[str, str],
    path: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with strict_server(kind) as server:
        hinted = remote_of(server, session_hint=hinting(monkeypatch, **where))
        settings = serving.config(remotes=[hinted])
        other_key = KeyConfig(id="other", sha256=key_sha256("mg-other-key"))
        rival = TenantConfig(name="rival", keys=(other_key,))
        settings = msgspec.structs.replace(settings, tenants=(*settings.tenants, rival))
        found = []
        for _ in range(2):  # two gateways with the same secret
            async with serving.serving(settings) as served:
                for key, session in (
                    (serving.KEY, "s-1"),
                    (serving.KEY, "s-2"),
                    ("mg-other-key", "s-1"),
                    (serving.KEY, ""),
                ):
                    metadata = (("authorization", f"Bearer {key}"),)
                    asked = inference_pb2.GenerateOnceRequest(request=request(session_id=session))
                    await served.stub.GenerateOnce(asked, metadata=metadata, timeout=30)
                    found.append(hint_in(server, where, path))
                    sent = json.dumps([server.bodies[-1], server.headers[-1]])
                    assert not session or session not in sent, "the session itself"
                    assert "rival" not in sent
    told = [hint_of("team", "s-1"), hint_of("team", "s-2"), hint_of("rival", "s-1"), None]
    assert found == told * 2


def hint_in(server: StrictServer, where: dict[str, str], path: tuple[str, ...]) -> object:
    """The hint of the last request; None: it has none."""
    if "header" in where:
        headers = {name.lower(): value for name, value in server.headers[-1].items()}
        return headers.get(where["header"])
    value: object = server.bodies[-1]
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


async def test_another_gateway_gets_the_hint_as_its_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOEGATE_TEST_INNER", serving.KEY)
    hint = hinting(monkeypatch, body_field="session_id")
    async with (
        strict_server(Plain) as server,
        gateway(
            remote_of(server, session_hint=hinting(monkeypatch, body_field="prompt_cache_key"))
        ) as inner,
    ):
        outer_remote = RemoteConfig(
            name="inner",
            remote_class="eu",
            model=MODEL,
            api=RemoteApi.MOEGATE,
            url=f"grpc://{inner.gateway.address}",
            api_key=SecretConfig(env="MOEGATE_TEST_INNER"),
            session_hint=hint,
        )
        async with gateway(outer_remote) as outer:
            await ask(outer, request(session_id="s-1"), unary=True)
    first = hint_of("team", "s-1")
    assert server.bodies[-1]["prompt_cache_key"] == hint_of("team", first)


BOTH = pb.Sampling(temperature=0.5, top_p=0.9)


async def test_parameters_that_are_refused_together_go_elsewhere_or_nowhere() -> None:
    async with strict_server(Anthropic) as claude, strict_server(Plain) as plain:
        picky = remote_of(claude, "picky", cannot=("temperature+top_p",))
        async with gateway(picky, remote_of(plain, "plain")) as served:
            for _ in range(3):
                await ask(served, request(sampling=BOTH), unary=True)
            assert (len(claude.bodies), len(plain.bodies)) == (0, 3)
            quoted = await served.stub.Quote(
                inference_pb2.QuoteRequest(request=request(sampling=BOTH)), metadata=METADATA
            )
            why = {c.placement: (c.feasible, c.reason) for c in quoted.candidates}
            assert why["picky"] == (False, "cannot honour sampling.temperature+sampling.top_p")
            await ask(served, request(sampling=BOTH, request_id="asked"), unary=True)
            explained = await served.stub.Explain(
                inference_pb2.ExplainRequest(request_id="asked"), metadata=METADATA
            )
            why = {c.placement: (c.feasible, c.reason) for c in explained.candidates}
            assert why["picky"][0] is False
            assert "a field of the request" in why["picky"][1]
        async with gateway(picky) as served:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(served, request(sampling=BOTH), unary=True)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            bad = serving.detail(caught.value, error_details_pb2.BadRequest)
            (violation,) = bad.field_violations
            assert violation.field == "sampling.temperature+sampling.top_p"
            assert "together" in violation.description
            await ask(served, request(sampling=pb.Sampling(temperature=0.5)), unary=True)
        assert claude.bodies[-1]["temperature"] == 0.5


async def test_a_parameter_is_left_out_only_where_the_operator_says_so() -> None:
    async with strict_server(Anthropic) as claude:
        lenient = remote_of(claude, cannot=("temperature+top_p",), drop=(Feature.TOP_P,))
        async with gateway(lenient) as served:
            await ask(served, request(sampling=BOTH), unary=True)
            await ask(served, request(sampling=pb.Sampling(top_p=0.9)), unary=True)
    sent = [(body.get("temperature"), body.get("top_p")) for body in claude.bodies]
    assert sent == [(0.5, None), (None, 0.9)]
