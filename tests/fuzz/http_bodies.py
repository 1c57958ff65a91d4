"""Bodies of the HTTP doors of OpenAI, changed in their structure and bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from hypothesis import strategies as st

from gateway.config.limits import LimitsConfig
from gateway.domain.generation import Generation
from gateway.domain.slices import finish
from gateway.doors.http.errors import HttpError, invalid
from gateway.doors.http.exchange import Exchange
from gateway.doors.http.request_body import parse_body
from gateway.doors.openai.chat.body import decode_chat
from gateway.doors.openai.chat.request import generation_steps as chat_steps
from gateway.doors.openai.responses.body import decode_responses
from gateway.doors.openai.responses.request import answer_head
from gateway.doors.openai.responses.request import generation_steps as responses_steps
from gateway.doors.openai.wire.errors import error_shape
from gateway.doors.openai.wire.reasoning_details import seal_thought
from tests.fuzz.mutations import changed, dumped, scratched
from tests.integration.doors.test_doors_alike import CHAT, RESPONSES

WORDS = (b'"', b"\\u0000", b"\\ud800", b"null", b"[", b"{", b"\xff", b"1e999", b"-0")
MOST_OUTPUT = 1000
ELEMENTS = LimitsConfig().elements


@dataclass(frozen=True, slots=True)
class SentBody:
    """A body, and whether it is one of Responses."""

    is_response: bool
    body: bytes


@st.composite
def sent_bodies(draw: st.DrawFn) -> SentBody:
    """A body that is almost right."""
    is_response = draw(st.booleans())
    seed = json.loads(json.dumps({"model": "moe", **(RESPONSES if is_response else CHAT)}))
    sealed = seal_thought("Ask.", ())
    if is_response:
        seed["input"][1]["encrypted_content"] = sealed
        seed["text"] = {
            "format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
        }
    else:
        seed["messages"][2]["reasoning_details"] = [{"type": "reasoning.encrypted", "data": sealed}]
        seed |= {"stop": ["a"], "logit_bias": {"5": 1}, "n": 2, "thinking": {"type": "enabled"}}
    return SentBody(is_response, draw(scratched(dumped(draw(changed(seed))), WORDS)))


def check_body(sent: SentBody) -> None:
    """A request within its bounds, or an error that a client can read."""
    exchange = _exchange()
    try:
        if sent.is_response:
            response = _parsed(sent.body, decode_responses)
            generation = finish(responses_steps(response, (), exchange))
            msgspec.json.encode(answer_head(response, "resp_1", is_stored=False))
        else:
            generation = finish(chat_steps(_parsed(sent.body, decode_chat), exchange))
    except HttpError as error:
        refused = error
    else:
        check_generation(generation)
        return
    assert 400 <= refused.status < 500
    assert json.loads(error_shape(refused, "r").body)["error"]["message"]


def check_generation(generation: Generation) -> None:
    """It keeps the bounds of a request."""
    assert 0 < generation.max_output_tokens <= MOST_OUTPUT
    assert 1 <= generation.choices <= 16
    msgspec.json.encode(generation)


def _parsed(body: bytes, decode: Any) -> Any:
    parsing = parse_body(body, decode, ELEMENTS)
    try:
        while True:  # what it awaits is only its turn
            parsing.send(None)
    except StopIteration as end:
        return end.value


def _exchange() -> Exchange:
    def output_tokens(model: str, asked: int | None, choices: int, field: str) -> int:
        if asked is not None and asked < 1:
            raise invalid(field, "too few")
        return MOST_OUTPUT if asked is None else min(asked, MOST_OUTPUT)

    config = SimpleNamespace(limits=SimpleNamespace(elements=ELEMENTS))
    services = SimpleNamespace(active=SimpleNamespace(config=config))
    made = SimpleNamespace(services=services, request_id="r", output_tokens=output_tokens)
    return cast(Exchange, made)
