"""What makes a request recognisable when it is sent again."""

from __future__ import annotations

from msgspec import structs

from gateway.domain.generation import (
    Chat,
    EngineHints,
    Generation,
    Image,
    JsonSchema,
    Message,
    Role,
    Sampling,
    Tool,
    ToolMode,
)
from gateway.domain.slices import finish
from gateway.pipeline.fingerprint import constraint, features, fingerprint
from gateway.pipeline.prefix_blocks import MAX_BLOCKS, prefix_blocks
from scheduler.contract import SloClass

TOOL = Tool(name="f", description="", parameters_json_schema='{"type": "object"}')
SCHEMA = JsonSchema(name="s", schema_json='{"type": "string"}', strict=True)


def made(text: str = "hi", *parts: Image, **chat: object) -> Generation:
    message = Message(role=Role.USER, parts=(text, *parts))
    asked = Chat(messages=(message,), **chat)  # type: ignore[arg-type]
    return Generation(request_id="r", model="moe", input=asked, max_output_tokens=9)


def of(generation: Generation) -> int:
    return fingerprint(generation, finish(prefix_blocks(generation, "", 10)).digest)


def test_a_retry_has_the_same_fingerprint_under_another_id() -> None:
    again = structs.replace(
        made(),
        request_id="again",
        hints=EngineHints(dp_rank=1),
        hops=1,
        slo_class=SloClass.BATCH,
        priority=3,
    )
    assert of(made()) == of(again) != 0


def test_everything_that_an_engine_is_asked_counts() -> None:
    plain = made()
    others = [
        made("ho"),
        made("hi", Image(data=b"x", media_type="image/png")),
        made(json_object=True),
        made(json_schema=SCHEMA),
        made(tools=(TOOL,)),
        made(tools=(TOOL,), tool_choice=ToolMode.REQUIRED),
        structs.replace(plain, sampling=Sampling(temperature=0.5)),
        structs.replace(plain, max_output_tokens=10),
        structs.replace(plain, stop=("x",)),
        structs.replace(plain, logprobs=3),
        structs.replace(plain, input="hi"),
        structs.replace(plain, input=(1, 2)),
    ]
    assert len({of(generation) for generation in (plain, *others)}) == len(others) + 1


def test_long_prompts_differ_by_what_is_behind_the_hashed_blocks() -> None:
    start = "y" * (MAX_BLOCKS * 2048)
    assert of(made(start + "a")) != of(made(start + "bb"))


def test_a_constraint_is_what_the_output_must_follow() -> None:
    assert constraint(made()) == constraint(made(tools=(TOOL,))) == 0
    assert constraint(structs.replace(made(), input="hi")) == 0
    schema = constraint(made(json_schema=SCHEMA))
    assert schema == constraint(made("another prompt", json_schema=SCHEMA)) != 0
    forced = constraint(made(tools=(TOOL,), tool_choice=ToolMode.REQUIRED))
    strict = constraint(made(tools=(structs.replace(TOOL, strict=True),)))
    assert len({0, schema, forced}) == 3
    assert forced == strict


def test_features_name_what_a_server_may_lack() -> None:
    picture = Image(data=b"x", media_type="image/png")
    assert features(made()) == "chat"
    assert features(made("hi", picture, tools=(TOOL,))) == "chat+tools+images"
    assert features(made(json_schema=SCHEMA)) == "chat+json_schema"
    assert features(made(json_object=True)) == "chat+json_object"
    assert features(structs.replace(made(), input="hi", logprobs=1)) == "prompt+logprobs"
    assert features(structs.replace(made(), input=(1,))) == "token_ids"
