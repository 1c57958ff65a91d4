"""Token counts as servers send them: see `stream_cases.py`."""

from __future__ import annotations

from tests.gateway.upstream.stream_cases import (
    DONE,
    anthropic,
    block,
    counted,
    data,
    event,
    of,
    openai,
    said,
    usage,
)

NO_COUNTS: tuple[object, ...] = (None, [], {}, True, -3, "many", "", 0)
USAGE = [
    counted("the output in the sum only", {"prompt_tokens": 77, "total_tokens": 82}, usage=(77, 5)),
    *(
        counted(
            f"counts as {value!r}",
            {"prompt_tokens": value, "completion_tokens": value},
            usage=(5, 5),
        )
        for value in (5.0, "5", " 5 ")
    ),
    *(
        counted(
            f"no counts: {value!r}",
            {"prompt_tokens": value, "completion_tokens": value},
            estimated=True,
            least_usage=(1, 1),
        )
        for value in NO_COUNTS
    ),
    openai(
        "NaN as counts",
        of({"content": "a"}),
        of({}, finish_reason="stop"),
        'data: {"choices": [], "usage": {"prompt_tokens": NaN, "completion_tokens": Infinity}}\n\n',
        DONE,
        end=False,
        text="a",
        estimated=True,
        least_usage=(1, 1),
    ),
    counted("usage as a list", {}, estimated=True, least_usage=(1, 1)),
    openai(
        "zeros after a true count",
        of({"content": "hello"}),
        usage(77, 5),
        of({}, finish_reason="stop"),
        usage(0, 0),
        DONE,
        end=False,
        text="hello",
        usage=(77, 5),
    ),
    openai(
        "counts that fall",
        of({"content": "hello"}),
        usage(77, 9),
        of({}, finish_reason="stop"),
        usage(77, 5),
        DONE,
        end=False,
        text="hello",
        usage=(77, 9),
    ),
    openai(
        "cached tokens in an earlier event only",
        of({"content": "hello"}),
        usage(77, 2, prompt_tokens_details={"cached_tokens": 64}),
        of({}, finish_reason="stop"),
        usage(77, 5),
        DONE,
        end=False,
        text="hello",
        usage=(77, 5),
        cached=64,
    ),
    openai(
        "usage in the delta's event of each choice",
        data(
            {
                "choices": [
                    {
                        "index": i,
                        "delta": {"content": "a"},
                        "finish_reason": "stop",
                        "usage": {"prompt_tokens": 9, "completion_tokens": 4},
                    }
                    for i in (0, 1)
                ]
            }
        ),
        DONE,
        end=False,
        text="a",
        choices=2,
        usage=(9, 8),
    ),
    openai(
        "Groq's usage",
        of({"content": "hello"}),
        data(
            {
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "x_groq": {"usage": {"prompt_tokens": 77, "completion_tokens": 5}},
            }
        ),
        DONE,
        end=False,
        text="hello",
        usage=(77, 5),
    ),
    counted(
        "Gemini's thinking in the total only",
        {"prompt_tokens": 77, "completion_tokens": 3, "total_tokens": 90},
        usage=(77, 13),
        cached=None,
    ),
    counted(
        "Gemini's thinking in the total only, beside cached tokens",
        {
            "prompt_tokens": 77,
            "completion_tokens": 3,
            "total_tokens": 90,
            "prompt_tokens_details": {"cached_tokens": 64},
        },
        usage=(77, 13),
        cached=64,
    ),
    counted(
        "a total that cannot be",
        {"prompt_tokens": 77, "completion_tokens": 3, "total_tokens": 1 << 40},
        usage=(77, 3),
    ),
    counted(
        "a total below its parts",
        {"prompt_tokens": 77, "completion_tokens": 3, "total_tokens": 5},
        usage=(77, 3),
    ),
    counted(
        "all of Anthropic's counts beside the input",
        {
            "input_tokens": 10,
            "output_tokens": 3,
            "cache_read_input_tokens": 50,
            "cache_creation_input_tokens": 5,
        },
        usage=(65, 3),
        cached=50,
        cache_write=5,
    ),
    counted(
        "cache writes beside the prompt, by the total",
        {
            "prompt_tokens": 100,
            "completion_tokens": 3,
            "total_tokens": 163,
            "cache_creation_input_tokens": 60,
        },
        usage=(160, 3),
        cache_write=60,
    ),
    *(
        counted(
            f"the {name} as zero, beside a sum of both",
            {"prompt_tokens": 77, "completion_tokens": 5, "total_tokens": 82, f"{name}_tokens": 0},
            usage=(77, 5),
        )
        for name in ("prompt", "completion")
    ),
    counted(
        "zeros beside a sum",
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 82},
        estimated=True,
        least_usage=(1, 1),
    ),
    openai(
        "usage within the delta",
        of({"content": "hello"}),
        of({"usage": {"prompt_tokens": 77, "completion_tokens": 5}}, finish_reason="stop"),
        DONE,
        end=False,
        text="hello",
        usage=(77, 5),
    ),
    openai(
        "usage as a list of one",
        of({"content": "hello"}),
        of({}, finish_reason="stop"),
        data({"choices": [], "usage": [{"prompt_tokens": 77, "completion_tokens": 5}]}),
        DONE,
        end=False,
        text="hello",
        usage=(77, 5),
    ),
    counted("input and output tokens", {"input_tokens": 77, "output_tokens": 5}, usage=(77, 5)),
    counted(
        "2^40 output tokens",
        {"prompt_tokens": 10, "completion_tokens": 1 << 40},
        usage=(10, 16),
        estimated=True,
        deviations=["usage_too_many_output"],
    ),
    counted(
        "2^40 prompt tokens",
        {"prompt_tokens": 1 << 40, "completion_tokens": 3},
        usage=(288, 3),
        estimated=True,
        deviations=["usage_too_many_prompt"],
    ),
    counted(
        "a million prompt tokens, cached",
        {
            "prompt_tokens": 1_000_000,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 999_999},
        },
        usage=(288, 3),
        estimated=True,
        cached=None,
    ),
    counted(
        "5000 output tokens of reasoning",
        {
            "prompt_tokens": 10,
            "completion_tokens": 5000,
            "completion_tokens_details": {"reasoning_tokens": 4990},
        },
        usage=(10, 16),
        estimated=True,
    ),
    counted(
        "a few tokens more than requested",
        {"prompt_tokens": 10, "completion_tokens": 18},
        usage=(10, 18),
    ),
    counted(
        "1 token beside 2 kB",
        {"prompt_tokens": 10, "completion_tokens": 1},
        "x" * 2000,
        estimated=True,
        least_usage=(10, 500),
        deviations=["usage_too_few_output"],
    ),
    counted(
        "cache writes under Anthropic's name",
        {
            "prompt_tokens": 100,
            "completion_tokens": 3,
            "cache_creation_input_tokens": 60,
            "cache_read_input_tokens": 30,
        },
        usage=(100, 3),
        cached=30,
        cache_write=60,
    ),
    counted(
        "cache writes under another name",
        {"prompt_tokens": 100, "completion_tokens": 3, "prompt_cache_write_tokens": 60},
        usage=(100, 3),
        cache_write=60,
    ),
    counted(
        "cache writes in the details",
        {
            "prompt_tokens": 100,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cache_creation_tokens": 60},
        },
        usage=(100, 3),
        cache_write=60,
    ),
    counted(
        "cache writes by lifetime",
        {
            "prompt_tokens": 100,
            "completion_tokens": 3,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 40},
        },
        usage=(100, 3),
        cache_write=60,
    ),
    counted(
        "cache writes beside the prompt",
        {"prompt_tokens": 3, "completion_tokens": 3, "cache_creation_input_tokens": 60},
        usage=(63, 3),
        cache_write=60,
    ),
    counted(
        "no cache writes told",
        {"prompt_tokens": 100, "completion_tokens": 3},
        usage=(100, 3),
        cache_write=None,
        cached=None,
    ),
    openai(
        "far more text than requested",
        *[of({"content": "word " * 10})] * 400,
        end=False,
        text=("word " * 620)[:3072],
        finish="LENGTH",
        estimated=True,
        usage=(None, 16),
        deviations=["output_cut"],
    ),
    anthropic(
        "far more text than requested, in another dialect",
        block(0, "text", *[{"type": "text_delta", "text": "word " * 10}] * 400, text=""),
        text=("word " * 620)[:3072],
        finish="LENGTH",
        estimated=True,
        usage=(None, 16),
        deviations=["output_cut"],
    ),
    anthropic(
        "cache writes by lifetime only",
        said("hi"),
        start={
            "input_tokens": 10,
            "output_tokens": 1,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 40},
        },
        text="hi",
        usage=(70, 3),
        cache_write=60,
    ),
    anthropic(
        "output only at the start", said("hi"), end={}, text="hi", estimated=True, usage=(10, None)
    ),
    anthropic(
        "counts as texts and numbers with a point",
        said("hi"),
        start={"input_tokens": "10", "output_tokens": 1.0},
        end={"output_tokens": "3"},
        text="hi",
    ),
    anthropic(
        "the whole prompt as input at first, then what of it was cached",
        said("hi"),
        start={"input_tokens": 60, "cache_read_input_tokens": 0, "output_tokens": 1},
        end={"input_tokens": 10, "cache_read_input_tokens": 50, "output_tokens": 3},
        text="hi",
        usage=(60, 3),
        cached=50,
    ),
    anthropic(
        "the whole prompt as input at first, then nothing but what was cached",
        said("hi"),
        start={"input_tokens": 60, "output_tokens": 1},
        end={"input_tokens": 0, "cache_read_input_tokens": 60, "output_tokens": 3},
        text="hi",
        usage=(60, 3),
        cached=60,
    ),
    anthropic(
        "what was cached at first, then the whole prompt as input",
        said("hi"),
        start={"input_tokens": 10, "cache_read_input_tokens": 50, "output_tokens": 1},
        end={"input_tokens": 60, "cache_read_input_tokens": 0, "output_tokens": 3},
        text="hi",
        usage=(60, 3),
        cached=50,
    ),
    anthropic(
        "an input that grows beside what was cached",
        said("hi"),
        start={"input_tokens": 10, "cache_read_input_tokens": 50, "output_tokens": 1},
        end={"input_tokens": 25, "output_tokens": 3},
        text="hi",
        usage=(75, 3),
        cached=50,
    ),
    anthropic(
        "an output that falls",
        said("hi"),
        event("message_delta", delta={}, usage={"output_tokens": 9}),
        end={"output_tokens": 3},
        text="hi",
        usage=(10, 9),
    ),
    anthropic(
        "2^40 output tokens",
        said("hi"),
        end={"output_tokens": 1 << 40},
        text="hi",
        usage=(10, 16),
        estimated=True,
        deviations=["usage_too_many_output"],
    ),
    anthropic(
        "2^40 tokens read from a cache",
        said("hi"),
        start={"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 1 << 40},
        text="hi",
        usage=(None, 3),
        estimated=True,
        cached=None,
    ),
]
