"""The bytes of a stream, field by field those of vLLM 0.32 (tests/golden/vllm_0_32).

A chunk is formatted as bytes around the text, without building objects for a JSON encoder. All
chunks of one step of a request are one bytes object, for one write.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET
from msgspec.structs import asdict

from moegate.simulated_vllm.forced import CallDeltas
from moegate.simulated_vllm.jobs import Job, finish_reason
from moegate.simulated_vllm.logprobs import chat_logprobs, completion_logprobs
from moegate.simulated_vllm.wire import RequestTimes, encode
from simulation.output import OutputText, ReasoningSplit

DONE = b"data: [DONE]\n\n"
_CHAT_CHOICE = b'{"index":%d,"delta":{%s},"logprobs":%s,"finish_reason":%s,"token_ids":%s}]'
_COMPLETION_CHOICE = (
    b'{"index":%d,"text":%s,"logprobs":%s,"finish_reason":%s,"prompt_token_ids":%s,"token_ids":%s}]'
)
_ROLE_CHOICE = (
    b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
)


class Frames:
    """Formats one stream.

    `fingerprint`: the server's system_fingerprint; `details`: whether usage has the cached tokens.
    """

    def __init__(self, job: Job, fingerprint: str, details: bool) -> None:
        self._job = job
        self._details = details
        self._fingerprint = b',"system_fingerprint":' + encode(fingerprint)
        self._prompt_tokens = len(job.request.prompt_ids)
        self._texts = [OutputText(output) for output in job.request.outputs]
        self._offsets_chars = [0] * len(self._texts)
        call = job.call
        self._calls = [CallDeltas(call, each) for each in job.request.outputs] if call else []
        self._splits: list[ReasoningSplit] = []
        if job.has_reasoning:
            self._splits = [ReasoningSplit(each) for each in job.request.outputs]
        self._began = False
        kind = "chat.completion.chunk" if job.is_chat else "text_completion"
        self._head = b'data: {"id":%s,"object":"%s","created":%d,"model":%s,"choices":[' % (
            encode(job.response_id),
            kind.encode(),
            job.created_s,
            encode(job.model),
        )
        null = b"null"
        self._prompt_ids = encode(job.request.prompt_ids) if job.return_token_ids else null

    def advance(self, made: Sequence[int]) -> bytes:
        """Chunks since the last call. `made`: tokens generated so far, by choice."""
        parts: list[bytes] = []
        interval = self._job.stream_interval
        for choice, text in enumerate(self._texts):
            last = text.output.tokens
            while text.tokens < made[choice]:
                # The first token is sent at once.
                step = interval if text.tokens else 1
                end = min(text.tokens + step, last)
                if end > made[choice]:
                    break
                parts.append(self._chunk(choice, text, end))
        if parts and not self._began:
            self._began = True
            if self._job.is_chat:
                parts[:0] = (self._role(choice) for choice in range(len(self._texts)))
        return b"".join(parts)

    def end(self, cached_tokens: int, times: RequestTimes | None = None) -> bytes:
        """The usage chunk, if the request includes usage, and `[DONE]`. `times`: told beside the
        usage, if the server tells them."""
        if not self._job.include_usage:
            return DONE
        completion_tokens = sum(text.tokens for text in self._texts)
        usage = self._usage_figures(completion_tokens)
        if self._details:
            created = b',"created_cache_tokens":0' if self._job.is_chat else b""
            usage += b',"prompt_tokens_details":{"cached_tokens":%d%s}' % (cached_tokens, created)
        if self._job.has_reasoning:
            reasoned = sum(each.output.reasoned_tokens(each.tokens) for each in self._texts)
            usage += b',"completion_tokens_details":{"reasoning_tokens":%d}' % reasoned
        metrics = b""
        if self._job.tells_times and times is not None:
            known = {n: v for n, v in asdict(times).items() if v is not None and v is not UNSET}
            metrics = b',"metrics":' + encode(known)
        return self._head + b"]" + usage + b"}" + self._fingerprint + metrics + b"}\n\n" + DONE

    def _role(self, choice: int) -> bytes:
        return b"".join(
            (
                self._head,
                _ROLE_CHOICE % choice,
                self._usage(choice, 0),
                b',"prompt_token_ids":%s,"prompt_text":null}\n\n' % self._prompt_ids,
            )
        )

    def _chunk(self, choice: int, text: OutputText, end: int) -> bytes:
        """The chunk with the tokens of a choice up to `end`; empty: nothing is to be said."""
        job, output, start = self._job, text.output, text.tokens
        new_text = text.advance(end)
        finish = b"null" if job.is_chat else b'null,"stop_reason":null'
        ended = end == output.tokens
        if ended:
            finish = b'"%s","stop_reason":%s' % (
                finish_reason(job, output).encode(),
                encode(output.stop_reason),
            )
        ids = b"null"
        tells_tokens = not job.hides_reasoning
        if job.return_token_ids and tells_tokens:
            ids = encode([output.token_id(position) for position in range(start, end)])
        logprobs = b"null"
        if job.logprobs is not None and tells_tokens:
            logprobs = self._logprobs(choice, text, start, end)
        if job.is_chat:
            delta = self._delta(choice, new_text, ended)
            if delta is None:
                has_tokens = tells_tokens and (job.logprobs is not None or job.return_token_ids)
                if not ended and not has_tokens:
                    return b""
                delta = b""
            body = _CHAT_CHOICE % (choice, delta, logprobs, finish, ids)
        else:
            prompt_ids = b"null" if start else self._prompt_ids
            said = encode(new_text)
            body = _COMPLETION_CHOICE % (choice, said, logprobs, finish, prompt_ids, ids)
        fingerprint = self._fingerprint if ended and not job.include_usage else b""
        return self._head + body + self._usage(choice, end) + fingerprint + b"}\n\n"

    def _delta(self, choice: int, new_text: str, ended: bool) -> bytes | None:
        """Members of the delta of a chat; None: a parser has nothing to say."""
        if self._splits:
            return self._parsed_delta(choice, new_text)
        if self._calls:
            piece = self._calls[choice].advance(new_text)
            return None if piece is None else b'"content":null,"tool_calls":[%s]' % encode(piece)
        if ended and not new_text and self._texts[choice].output.forced_ids:
            return None
        return b'"content":%s' % encode(new_text)

    def _parsed_delta(self, choice: int, new_text: str) -> bytes | None:
        """The same, with a parser of reasoning."""
        reasoning, content = self._splits[choice].advance(new_text)
        said = b',"reasoning":null' if self._job.hides_reasoning else b""
        if reasoning and not self._job.hides_reasoning:
            said = b',"reasoning":' + encode(reasoning)
        if self._calls and content:
            if (piece := self._calls[choice].advance(content)) is not None:
                return b'"content":null%s,"tool_calls":[%s]' % (said, encode(piece))
        elif content:
            return b'"content":%s%s' % (encode(content), said)
        return said[1:] if reasoning and not self._job.hides_reasoning else None

    def _logprobs(self, choice: int, text: OutputText, start: int, end: int) -> bytes:
        top = self._job.logprobs or 0
        if self._job.is_chat:
            return chat_logprobs(text.output, start, end, top)
        body, self._offsets_chars[choice] = completion_logprobs(
            text.output, start, end, top, self._offsets_chars[choice]
        )
        return body

    def _usage(self, choice: int, completion_tokens: int) -> bytes:
        """Continuous usage. Like vLLM it counts only the choice of the chunk."""
        if not self._job.continuous_usage:
            return b""
        details = b',"completion_tokens_details":null}' if self._job.is_chat else b"}"
        if self._job.has_reasoning:
            reasoned = self._texts[choice].output.reasoned_tokens(completion_tokens)
            details = b',"completion_tokens_details":{"reasoning_tokens":%d}}' % reasoned
        return self._usage_figures(completion_tokens) + details

    def _usage_figures(self, completion_tokens: int) -> bytes:
        prompt = self._prompt_tokens
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d' % (
            prompt,
            prompt + completion_tokens,
            completion_tokens,
        )
