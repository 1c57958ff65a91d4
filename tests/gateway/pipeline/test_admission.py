"""What a caller may have: class, figures, remotes; and how long its prompt is."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.auth.authenticator import Authenticator, Caller
from gateway.config.gateway import GatewayConfig, KeyConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.domain.generation import Generation
from gateway.domain.outcomes import RequestRefused
from gateway.pipeline.admission import scheduler_request
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.settings import pipeline_settings
from scheduler.contract import RefusalReason, Request, SloClass
from tests import serving


def caller(key: KeyConfig) -> tuple[Caller, GatewayConfig]:
    remotes = [serving.remote("http://127.0.0.1:9"), serving.remote("http://127.0.0.1:8")]
    config = serving.config(
        pools=[serving.pool(["http://127.0.0.1:7"])], remotes=remotes, keys=[key]
    )
    return Authenticator(config, Path()).authenticate([("x-api-key", "mg-k")]), config


def key(**settings: object) -> KeyConfig:
    return KeyConfig(id="k", sha256=key_sha256("mg-k"), **settings)  # type: ignore[arg-type]


def made(mine: KeyConfig, **asked: object) -> Request:
    who, config = caller(mine)
    generation = Generation(request_id="r", model="moe", input="x", max_output_tokens=9, choices=2)
    call = GenerateCall(
        **{"remaining_s": None, "size_bytes": 7, **asked},  # type: ignore[arg-type]
        generation=generation,
        caller=who,
    )
    return scheduler_request(
        call,
        pipeline_settings(config),
        prompt_tokens=5,
        unsupported_by=["far"],
        now=100.0,
    )


def test_defaults() -> None:
    request = made(key(max_priority=3), session_id="s", priority=3)
    assert request.request_id == "k/r"
    assert request.slo.slo_class is SloClass.INTERACTIVE
    assert (request.slo.ttft_s, request.slo.max_queue_s) == (2.0, 10.0)
    assert request.deadline_s == 100.0 + 600.0
    assert request.remote_classes == {"eu"}
    assert (request.priority, request.session_id, request.choices) == (3, "s", 2)
    assert request.unsupported_by == {"far"}
    assert request.size_bytes == 7


def test_the_clients_deadline_and_figures_hold() -> None:
    request = made(key(min_ttft_s=7.0), slo_class=SloClass.BATCH, ttft_s=7.0, remaining_s=3.0)
    assert request.deadline_s == 103.0
    assert (request.slo.slo_class, request.slo.ttft_s) == (SloClass.BATCH, 7.0)
    assert request.slo.tpot_s == 1.0


def test_a_keys_first_class_is_its_default_and_others_are_denied() -> None:
    mine = key(slo_classes=(SloClass.BATCH, SloClass.STANDARD))
    assert made(mine).slo.slo_class is SloClass.BATCH
    with pytest.raises(RequestRefused) as caught:
        made(mine, slo_class=SloClass.INTERACTIVE)
    assert caught.value.reason is RefusalReason.PERMISSION_DENIED
    assert "batch, standard" in caught.value.message


def test_content_goes_only_where_the_key_and_the_request_let_it() -> None:
    asked = frozenset({"eu"})
    assert made(key(), remote_classes=asked).remote_classes == {"eu"}
    assert made(key(), local_only=True).remote_classes == frozenset()
    assert made(key(remote_classes=())).remote_classes == frozenset()
    with pytest.raises(RequestRefused, match="remote_classes: key k may not use eu"):
        made(key(remote_classes=()), remote_classes=asked)
