"""Record tests/golden/vllm_0_32/ anew: `python -m tests.vllm.record_golden`, some four minutes.

The files are response bodies as received (de-chunked, nothing parsed), so that the gateway's
decoders are tested on what vLLM really sends. Only the model's directory is replaced.
"""

import http.client
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vllm.launch import HOST, MODEL_DIR, MODEL_NAME, REPOSITORY, VllmProcess, running_vllm

GOLDEN = REPOSITORY / "tests" / "golden" / "vllm_0_32"
MODEL_PLACEHOLDER = "/models/tiny-moe"

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SAMPLING = {"max_tokens": 8, "temperature": 0, "seed": 7}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
CONTINUOUS = {"include_usage": True, "continuous_usage_stats": True}

# Long texts are shown in the README as the Python expressions that make them.
LONG_TEXTS = {'"gateway " * 120': "gateway " * 120, '"gateway " * 4000': "gateway " * 4000}
CACHED_PROMPT, OVERFLOW_PROMPT = LONG_TEXTS.values()

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
# A random model writes white space as long as the grammar lets it: a penalty ends it.
WITH_TOOLS: dict[str, Any] = {
    "max_tokens": 60,
    "tools": [
        {
            "type": "function",
            "function": {"name": "weather", "description": "Of a city.", "parameters": CITY},
        }
    ],
    "frequency_penalty": 2,
}
NAMED = {"type": "function", "function": {"name": "weather"}}


@dataclass(frozen=True, slots=True)
class Recording:
    """One golden file: what is asked, and why the answer is worth keeping."""

    file: str
    path: str
    note: str
    body: Mapping[str, Any] | None = None  # None: GET
    sends: int = 1  # the last answer is kept


def chat(content: str = "Hello", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": MODEL_NAME, "messages": messages, **SAMPLING, **fields}


def completion(prompt: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL_NAME, "prompt": prompt, **SAMPLING, **fields}


RECORDINGS = (
    Recording(
        "chat_stream.sse",
        CHAT,
        "A role chunk with empty content, a chunk a token, a usage chunk without choices, [DONE].",
        chat(**USAGE),
    ),
    Recording(
        "chat_stream_continuous_usage.sse",
        CHAT,
        "Usage so far on every chunk, the role chunk included.",
        chat(stream=True, stream_options=CONTINUOUS),
    ),
    Recording(
        "chat_stream_n2.sse",
        CHAT,
        "Two choices: their chunks alternate, usage counts both.",
        chat(**USAGE, n=2, temperature=1),
    ),
    Recording(
        "chat_stream_logprobs.sse",
        CHAT,
        "Log-probabilities of the token and of two candidates in every chunk.",
        chat(**USAGE, logprobs=True, top_logprobs=2),
    ),
    Recording(
        "chat_stream_stop.sse",
        CHAT,
        "A stop string: its text is withheld, stop_reason is the string.",
        chat(**USAGE, stop=["aind"]),
    ),
    Recording(
        "chat_stream_eos.sse",
        CHAT,
        "The end token (forced by a bias): its text is empty, stop_reason is null.",
        chat(**USAGE, logit_bias={"2": 100}),
    ),
    Recording(
        "chat_stream_multibyte.sse",
        CHAT,
        "Text outside the vocabulary (forced by a grammar): a character of several tokens, so "
        "chunks with empty content before it.",
        chat(**USAGE, max_tokens=32, structured_outputs={"choice": ["🦀 é ok"]}),
    ),
    Recording(
        "chat_stream_cached.sse",
        CHAT,
        "A prompt of more than two 128-token blocks, sent twice: cached_tokens > 0.",
        chat(CACHED_PROMPT, **USAGE),
        sends=2,
    ),
    Recording("completions_stream.sse", COMPLETIONS, "Text chunks, no role.", completion(**USAGE)),
    Recording(
        "completions_stream_logprobs.sse",
        COMPLETIONS,
        "The older log-probability shape: parallel lists and text offsets.",
        completion(**USAGE, logprobs=2),
    ),
    Recording("chat_unary.json", CHAT, "The answer in one piece.", chat()),
    Recording("completions_unary.json", COMPLETIONS, "The answer in one piece.", completion()),
    Recording(
        "error_context_overflow.json",
        CHAT,
        "A prompt longer than max_model_len; plain JSON even though a stream was asked for.",
        chat(OVERFLOW_PROMPT, **USAGE),
    ),
    Recording("error_bad_temperature.json", CHAT, "A value out of range.", chat(temperature=-1)),
    Recording(
        "error_bad_type.json",
        CHAT,
        "A value of the wrong type, refused by the schema: another `type` than above.",
        chat(max_tokens="many"),
    ),
    Recording(
        "error_unknown_model.json",
        CHAT,
        "A model that is not served.",
        chat() | {"model": "no-such-model"},
    ),
    Recording(
        "chat_stream_tool_required.sse",
        CHAT,
        "A tool call that is forced: the name first, then pieces of the arguments; what the parser "
        "removes brings no chunk.",
        chat(**USAGE, **WITH_TOOLS, tool_choice="required"),
    ),
    Recording(
        "chat_stream_tool_named.sse",
        CHAT,
        "The same with a named function.",
        chat(**USAGE, **WITH_TOOLS, tool_choice=NAMED),
    ),
    Recording(
        "chat_stream_choice.sse",
        CHAT,
        "One of two texts: the last chunk has an empty delta.",
        chat(**USAGE | {"max_tokens": 20}, structured_outputs={"choice": ["Paris", "Rome"]}),
    ),
    Recording(
        "chat_stream_bad_regex.sse",
        CHAT,
        "A regex that cannot be compiled: status 200, and the error as an event.",
        chat(**USAGE, structured_outputs={"regex": "(a"}),
    ),
    Recording(
        "chat_unary_tool_named.json",
        CHAT,
        "A tool call in one piece.",
        chat(**WITH_TOOLS, tool_choice=NAMED),
    ),
    Recording(
        "chat_unary_schema.json",
        CHAT,
        "An answer that fits a schema.",
        chat(
            max_tokens=60,
            frequency_penalty=2,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": CITY, "strict": True},
            },
        ),
    ),
    Recording(
        "error_two_forms.json",
        CHAT,
        "Two forms of the answer at once.",
        chat(structured_outputs={"regex": "a", "choice": ["a"]}),
    ),
    Recording(
        "error_bad_regex.json",
        CHAT,
        "A regex that cannot be compiled.",
        chat(structured_outputs={"regex": "(a"}),
    ),
    Recording(
        "error_stop_token.json",
        CHAT,
        "A stop token beyond the vocabulary.",
        chat(stop_token_ids=[999999]),
    ),
    Recording(
        "error_logit_bias.json",
        CHAT,
        "A bias of a token beyond the vocabulary.",
        chat(logit_bias={"999999": 1}),
    ),
    Recording(
        "error_budget.json",
        CHAT,
        "A bound on reasoning without a parser of reasoning.",
        chat(thinking_token_budget=5),
    ),
    Recording(
        "error_no_tools.json",
        CHAT,
        "A forced tool call without tools.",
        chat(tool_choice="required"),
    ),
    Recording(
        "error_unknown_tool.json",
        CHAT,
        "A named function that is no tool.",
        chat(
            tools=WITH_TOOLS["tools"],
            tool_choice={"type": "function", "function": {"name": "nope"}},
        ),
    ),
    Recording("models.json", "/v1/models", "`root` is the model's directory."),
    Recording(
        "tokenize.json",
        "/tokenize",
        "Chat messages through the template, to token ids.",
        {"model": MODEL_NAME, "messages": [{"role": "user", "content": "Hello"}]},
    ),
    Recording("metrics.txt", "/metrics", "After all the requests above."),
)
ANSWER_AFTER: dict[str, Any] = {"thinking_token_budget": 4, "max_tokens": 8}
"""The line break after the opening tag counts, so three tokens of reasoning are left."""
THINKING_RECORDINGS = (
    Recording(
        "reasoning_stream.sse",
        CHAT,
        "Reasoning, then the answer; the closing tag brings no chunk. A delta has one of the two, "
        "and the usage tells the tokens of reasoning.",
        chat(**USAGE | ANSWER_AFTER),
    ),
    Recording(
        "reasoning_stream_continuous_usage.sse",
        CHAT,
        "Usage so far on every chunk.",
        chat(stream=True, stream_options=CONTINUOUS) | ANSWER_AFTER,
    ),
    Recording(
        "reasoning_stream_interval.sse",
        CHAT,
        "Four tokens a chunk: one delta has both, the answer first.",
        chat(**USAGE | ANSWER_AFTER, stream_interval=4),
    ),
    Recording(
        "reasoning_stream_logprobs.sse",
        CHAT,
        "The closing tag brings a chunk with an empty delta, for its log-probability.",
        chat(**USAGE | ANSWER_AFTER, logprobs=True, top_logprobs=1),
    ),
    Recording(
        "reasoning_stream_token_ids.sse",
        CHAT,
        "The same for its token id. The prompt ends with the opening tag and a line break.",
        chat(**USAGE | ANSWER_AFTER, return_token_ids=True),
    ),
    Recording(
        "reasoning_stream_cut.sse",
        CHAT,
        "max_tokens is reached while it thinks: no answer.",
        chat(**USAGE | {"max_tokens": 4}),
    ),
    Recording(
        "reasoning_stream_hidden.sse",
        CHAT,
        "`include_reasoning` false: no chunk of reasoning, and a null beside the answer.",
        chat(**USAGE | ANSWER_AFTER, include_reasoning=False),
    ),
    Recording(
        "reasoning_stream_eos.sse",
        CHAT,
        "The end token at once (forced by a bias): an empty delta.",
        chat(**USAGE, logit_bias={"2": 100}),
    ),
    Recording(
        "reasoning_stream_off.sse",
        CHAT,
        "Thinking switched off in the template: content only.",
        chat(**USAGE, chat_template_kwargs={"enable_thinking": False}),
    ),
    Recording(
        "reasoning_stream_effort_none.sse",
        CHAT,
        "Thinking switched off by the effort.",
        chat(**USAGE, reasoning_effort="none"),
    ),
    Recording(
        "reasoning_stream_choice.sse",
        CHAT,
        "A form of the answer binds what follows the reasoning.",
        chat(**USAGE | {"max_tokens": 20}, structured_outputs={"choice": ["Paris", "Rome"]})
        | {"thinking_token_budget": 4},
    ),
    Recording(
        "reasoning_stream_tool_named.sse",
        CHAT,
        "A tool call after reasoning.",
        chat(**USAGE | WITH_TOOLS, tool_choice=NAMED)
        | {"thinking_token_budget": 4, "max_tokens": 80},
    ),
    Recording(
        "reasoning_unary.json",
        CHAT,
        "The answer in one piece.",
        chat(**ANSWER_AFTER),
    ),
    Recording(
        "reasoning_unary_cut.json",
        CHAT,
        "Cut while it thinks: the content is null.",
        chat(max_tokens=4),
    ),
    Recording(
        "reasoning_unary_off.json",
        CHAT,
        "Thinking switched off: the reasoning is null.",
        chat(chat_template_kwargs={"enable_thinking": False}),
    ),
    Recording(
        "reasoning_unary_tool_named.json",
        CHAT,
        "A tool call after reasoning, in one piece.",
        chat(**WITH_TOOLS, tool_choice=NAMED) | {"thinking_token_budget": 4, "max_tokens": 80},
    ),
    Recording(
        "error_reasoning_budget.json",
        CHAT,
        "A bound on reasoning out of range.",
        chat(thinking_token_budget=-2),
    ),
    Recording(
        "error_reasoning_effort.json",
        CHAT,
        "An effort that does not exist.",
        chat(reasoning_effort="huge"),
    ),
)
"""Files of a server with `--reasoning-parser=qwen3`."""
DATA_PARALLEL_SIZE = 2
RANKS_RECORDINGS = (
    Recording(
        "chat_unary_of_ranks.json", CHAT, "One request, so that every metric exists.", chat()
    ),
    Recording(
        "metrics_of_ranks.txt",
        "/metrics",
        "Of a server with two data-parallel ranks. `num_gpu_blocks` is that of both ranks, "
        "on the line of each; `kv_cache_size_tokens` is the rank's own.",
    ),
)
"""Files of a second server, with `--data-parallel-size 2`."""


def send(server: VllmProcess, recording: Recording) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers without the date, body with the model's directory replaced."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    try:
        if recording.body is None:
            connection.request("GET", recording.path)
        else:
            text = json.dumps(recording.body, ensure_ascii=False).encode()
            connection.request("POST", recording.path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read().replace(str(MODEL_DIR).encode(), MODEL_PLACEHOLDER.encode())
        headers = [(k.lower(), v) for k, v in response.getheaders() if k.lower() != "date"]
        return response.status, headers, body
    finally:
        connection.close()


def describe(recording: Recording, status: int, headers: list[tuple[str, str]]) -> str:
    """The README's section on one file."""
    lines = [f"## {recording.file}", "", recording.note, "", "```"]
    if recording.body is None:
        lines.append(f"GET {recording.path}")
    else:
        text = json.dumps(recording.body, ensure_ascii=False)
        for expression, long_text in LONG_TEXTS.items():
            text = text.replace(json.dumps(long_text), expression)
        twice = f"   ({recording.sends} times, the last answer)" if recording.sends > 1 else ""
        lines += [f"POST {recording.path}{twice}", "content-type: application/json", "", text]
    lines += ["", f"-> {status}", *(f"{name}: {value}" for name, value in headers), "```", ""]
    return "\n".join(lines)


def record(
    server: VllmProcess, recordings: Iterable[Recording], folder: Path = GOLDEN
) -> Iterator[str]:
    """Writes the files, and yields the README's section on each."""
    for recording in recordings:
        for _ in range(recording.sends):
            status, headers, body = send(server, recording)
        (folder / recording.file).write_bytes(body)
        yield describe(recording, status, headers)


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    sections = [(Path(__file__).parent / "golden_readme.md").read_text()]
    with tempfile.TemporaryDirectory(prefix="moegate-golden-") as log_dir:
        with running_vllm(Path(log_dir)) as server:
            sections += record(server, RECORDINGS)
        with running_vllm(Path(log_dir), thinking=True) as server:
            sections += record(server, THINKING_RECORDINGS)
        with running_vllm(Path(log_dir), data_parallel_size=DATA_PARALLEL_SIZE) as server:
            sections += record(server, RANKS_RECORDINGS)
    (GOLDEN / "README.md").write_text("\n".join(sections))


if __name__ == "__main__":
    main()
