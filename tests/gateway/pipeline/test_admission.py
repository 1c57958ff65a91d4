"""What a caller may have: class, figures, remotes; and how long its prompt is."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from gateway.auth.authenticator import Authenticator, Caller
from gateway.config.api_keys import key_sha256
from gateway.config.gateway import GatewayConfig, KeyConfig
from gateway.domain.generation import Chat, Generation, Image, Message, Role
from gateway.doors.grpc.errors import RpcError
from gateway.pipeline.admission import FIRST_BYTES_PER_TOKEN, PromptSizes, scheduler_request
from moegate.v1 import generation_pb2 as pb
from scheduler.contract import Request, SloClass
from tests import serving


def caller(key: KeyConfig) -> tuple[Caller, GatewayConfig]:
    remotes = [serving.remote("http://127.0.0.1:9"), serving.remote("http://127.0.0.1:8")]
    config = serving.config(
        pools=[serving.pool(["http://127.0.0.1:7"])], remotes=remotes, keys=[key]
    )
    return Authenticator(config, Path()).authenticate([("x-api-key", "mg-k")]), config


def key(**settings: object) -> KeyConfig:
    return KeyConfig(id="k", sha256=key_sha256("mg-k"), **settings)  # type: ignore[arg-type]


def made(proto: pb.GenerateRequest, mine: KeyConfig, remaining_s: float | None = None) -> Request:
    who, config = caller(mine)
    return scheduler_request(
        proto,
        Generation(request_id="r", model="moe", input="x", max_output_tokens=9, choices=2),
        caller=who,
        config=config,
        prompt_tokens=5,
        unsupported_by=["far"],
        now=100.0,
        remaining_s=remaining_s,
    )


def test_defaults() -> None:
    request = made(pb.GenerateRequest(session_id="s", priority=3), key())
    assert request.request_id == "k/r"
    assert request.slo.slo_class is SloClass.INTERACTIVE
    assert (request.slo.ttft_s, request.slo.max_queue_s) == (2.0, 10.0)
    assert request.deadline_s == 100.0 + 600.0
    assert request.remote_classes == {"eu"}
    assert (request.priority, request.session_id, request.choices) == (3, "s", 2)
    assert request.unsupported_by == {"far"}


def test_the_clients_deadline_and_figures_hold() -> None:
    slo = pb.Slo(slo_class=pb.SLO_CLASS_BATCH, ttft=Duration(seconds=7))
    request = made(pb.GenerateRequest(slo=slo), key(), remaining_s=3.0)
    assert request.deadline_s == 103.0
    assert (request.slo.slo_class, request.slo.ttft_s) == (SloClass.BATCH, 7.0)
    assert request.slo.tpot_s == 1.0


def test_a_keys_first_class_is_its_default_and_others_are_denied() -> None:
    mine = key(slo_classes=(SloClass.BATCH, SloClass.STANDARD))
    assert made(pb.GenerateRequest(), mine).slo.slo_class is SloClass.BATCH
    with pytest.raises(RpcError) as caught:
        made(pb.GenerateRequest(slo=pb.Slo(slo_class=pb.SLO_CLASS_INTERACTIVE)), mine)
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
    assert "batch, standard" in caught.value.message


def test_content_goes_only_where_the_key_and_the_request_let_it() -> None:
    asked = pb.GenerateRequest(data_policy=pb.DataPolicy(remote_classes=["eu"]))
    private = pb.GenerateRequest(data_policy=pb.DataPolicy(local_only=True))
    assert made(asked, key()).remote_classes == {"eu"}
    assert made(private, key()).remote_classes == frozenset()
    assert made(pb.GenerateRequest(), key(remote_classes=())).remote_classes == frozenset()
    with pytest.raises(RpcError, match="remote_classes: key k may not use eu"):
        made(asked, key(remote_classes=()))


def generation(source: Chat | str | tuple[int, ...]) -> Generation:
    return Generation(request_id="r", model="moe", input=source, max_output_tokens=9)


def test_prompt_sizes_are_estimated_and_learnt() -> None:
    sizes = PromptSizes()
    text = generation("word " * 400)
    assert sizes.estimate(text) == round(2000 / FIRST_BYTES_PER_TOKEN)
    for _ in range(200):
        sizes.learn(text, 1000)
    assert sizes.estimate(text) == pytest.approx(1000, rel=0.01)
    assert sizes.estimate(generation((1, 2, 3))) == 3
    sizes.learn(generation((1, 2, 3)), 10_000)
    sizes.learn(generation("short"), 10_000)
    assert sizes.estimate(text) == pytest.approx(1000, rel=0.01), "neither tells of text"


def test_pictures_and_templates_count() -> None:
    picture = Image(url="https://example.org/a.png")
    plain = Message(role=Role.USER, parts=("word",))
    with_picture = Message(role=Role.USER, parts=("word", picture))
    sizes = PromptSizes()
    small = sizes.estimate(generation(Chat(messages=(plain,))))
    assert small > 1
    assert sizes.estimate(generation(Chat(messages=(with_picture,)))) > small + 500
