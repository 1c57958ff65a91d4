"""What comes back: pieces of a stream, the whole answer, its tokens, cost, route and times."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from moegate.client.messages import Message, Signature, ToolCall
from moegate.v1 import chat_pb2, generation_pb2

_NANO = Decimal(10) ** -9


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a request, all choices together. None: the upstream does not tell.

    `prompt_tokens` includes cached ones, `completion_tokens` includes reasoning. `estimated`: a
    count is the gateway's own.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    reasoning_tokens: int | None
    cache_write_tokens: int | None
    estimated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a request cost, in nano-USD (1e-9 US dollar). None: unknown, never zero.

    Attributes:
        charged_nano_usd: what the tenant is charged.
        metered_nano_usd: share of the GPUs' bill, or the remote's list price.
        cheapest_remote_nano_usd: what the cheapest allowed remote would have cost.
        estimated: the metered cost is an estimate.
    """

    charged_nano_usd: int | None
    metered_nano_usd: int | None
    cheapest_remote_nano_usd: int | None
    price_row_id: str
    estimated: bool

    @property
    def charged_usd(self) -> Decimal | None:
        """The charge in US dollars; None: unknown."""
        return None if self.charged_nano_usd is None else self.charged_nano_usd * _NANO

    @property
    def metered_usd(self) -> Decimal | None:
        """The metered cost in US dollars; None: unknown."""
        return None if self.metered_nano_usd is None else self.metered_nano_usd * _NANO


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request ran. `reason`: why there, for a reader. `attempts`: that were made."""

    placement: str
    remote: bool
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Times of a request in seconds. `ttft_s`: from arrival to the first output, queue included;
    `tpot_s`: mean time per output token after the first; `longest_gap_s`: longest time between two
    pieces of output. None: there was none."""

    queue_s: float
    ttft_s: float | None
    tpot_s: float | None
    total_s: float
    longest_gap_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is known of a request that is complete. `cost`: None: the gateway could not price it."""

    request_id: str
    model: str
    usage: Usage
    cost: Cost | None
    route: Route
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """New output of one choice. `tool_calls`: their next pieces, as the server sent them."""

    text: str
    reasoning: str
    choice: int
    tool_calls: tuple[chat_pb2.ToolCall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One choice of an answer.

    `finish_reason`: "stop", "length", "tool_calls", "content_filter"; empty: it was cut off.
    """

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    signatures: tuple[Signature, ...]
    logprobs: tuple[generation_pb2.TokenLogprob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer. Its text and tool calls are those of the first choice.

    `cost`, `usage`, `route`, `timings`: None only for an answer that was cut off; a `cost` of None
    in a complete answer: the gateway could not price it.
    """

    choices: tuple[Choice, ...]
    request_id: str
    model: str
    usage: Usage | None
    cost: Cost | None
    route: Route | None
    timings: Timings | None

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.choices[0].text if self.choices else ""

    @property
    def reasoning(self) -> str:
        """Reasoning of the first choice."""
        return self.choices[0].reasoning if self.choices else ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Calls that the first choice asks for."""
        return self.choices[0].tool_calls if self.choices else ()

    def json(self) -> Any:
        """The text as JSON, for an answer with `json_schema`. Raises ValueError."""
        return json.loads(self.text)

    def message(self) -> Message:
        """The first choice as a message of the next request."""
        if not self.choices:
            return Message("assistant")
        first = self.choices[0]
        return Message(
            "assistant",
            first.text,
            tool_calls=first.tool_calls,
            reasoning=first.reasoning,
            signatures=first.signatures,
        )


class AnswerAssembler:
    """Puts the pieces of a stream together."""

    def __init__(self) -> None:
        self._choices: dict[int, _Assembled] = {}
        self._done: generation_pb2.Done | None = None

    @property
    def complete(self) -> bool:
        """Whether the last message of the stream has come."""
        return self._done is not None

    def add(self, event: generation_pb2.GenerateResponse) -> list[Piece]:
        """Takes a message of the stream. Returns its news."""
        if event.HasField("done"):
            self._done = event.done
        return self.add_choices(event.delta.choices)

    def add_choices(self, choices: Iterable[generation_pb2.ChoiceDelta]) -> list[Piece]:
        """Takes news of choices. Returns them as pieces."""
        pieces = []
        for delta in choices:
            self._choices.setdefault(delta.index, _Assembled()).add(delta)
            pieces.append(
                Piece(
                    text=delta.text,
                    reasoning=delta.reasoning_text,
                    choice=delta.index,
                    tool_calls=tuple(delta.tool_calls),
                )
            )
        return pieces

    def finish(self, done: generation_pb2.Done) -> None:
        """Takes the account of the request."""
        self._done = done

    def answer(self) -> Answer:
        """The answer so far."""
        done = self._done
        priced = done is not None and done.HasField("cost")
        return Answer(
            choices=tuple(one.choice() for _, one in sorted(self._choices.items())),
            request_id="" if done is None else done.request_id,
            model="" if done is None else done.model,
            usage=None if done is None else usage_of(done.usage),
            cost=cost_of(done.cost) if done is not None and priced else None,
            route=None if done is None else _route(done.route),
            timings=None if done is None else _timings(done.timings),
        )


class _Assembled:
    """A choice so far."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, chat_pb2.ToolCall] = {}
        self._signatures: list[Signature] = []
        self._logprobs: list[generation_pb2.TokenLogprob] = []
        self._finish = generation_pb2.FINISH_REASON_UNSPECIFIED

    def add(self, delta: generation_pb2.ChoiceDelta) -> None:
        self._texts.append(delta.text)
        self._reasoning.append(delta.reasoning_text)
        self._signatures += _signatures(delta.signatures)
        self._logprobs += delta.logprobs
        self._finish = delta.finish_reason or self._finish
        for piece in delta.tool_calls:
            call = self._calls.setdefault(piece.index, chat_pb2.ToolCall(index=piece.index))
            call.id = call.id or piece.id
            call.name = call.name or piece.name
            call.arguments_json += piece.arguments_json
            call.signatures.extend(piece.signatures)

    def choice(self) -> Choice:
        ended = self._finish != generation_pb2.FINISH_REASON_UNSPECIFIED
        name = generation_pb2.FinishReason.Name(self._finish) if ended else ""
        return Choice(
            text="".join(self._texts),
            reasoning="".join(self._reasoning),
            tool_calls=tuple(
                ToolCall(call.id, call.name, call.arguments_json, _signatures(call.signatures))
                for _, call in sorted(self._calls.items())
            ),
            finish_reason=name.removeprefix("FINISH_REASON_").lower(),
            signatures=tuple(self._signatures),
            logprobs=tuple(self._logprobs),
        )


def usage_of(usage: generation_pb2.Usage) -> Usage:
    """The tokens of a request."""
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=_told(usage, "cached_tokens"),
        reasoning_tokens=_told(usage, "reasoning_tokens"),
        cache_write_tokens=_told(usage, "cache_write_tokens"),
        estimated=usage.estimated,
    )


def cost_of(cost: generation_pb2.Cost) -> Cost:
    """The cost of a request."""
    return Cost(
        charged_nano_usd=_told(cost, "charged_nano_usd"),
        metered_nano_usd=_told(cost, "metered_nano_usd"),
        cheapest_remote_nano_usd=_told(cost, "cheapest_remote_nano_usd"),
        price_row_id=cost.price_row_id,
        estimated=cost.basis == generation_pb2.COST_BASIS_ESTIMATED,
    )


def account_of(done: generation_pb2.Done) -> Account:
    """The account of a complete request."""
    return Account(
        request_id=done.request_id,
        model=done.model,
        usage=usage_of(done.usage),
        cost=cost_of(done.cost) if done.HasField("cost") else None,
        route=_route(done.route),
        timings=_timings(done.timings),
    )


def _told(message: Any, field: str) -> int | None:
    """An optional field's value; None: absent."""
    value: int | None = getattr(message, field) if message.HasField(field) else None
    return value


def _signatures(found: Iterable[chat_pb2.ReasoningSignature]) -> tuple[Signature, ...]:
    return tuple(Signature(one.origin, one.data) for one in found)


def _route(route: generation_pb2.Route) -> Route:
    return Route(
        placement=f"{route.target}/{route.replica}" if route.replica else route.target,
        remote=route.kind == generation_pb2.PLACEMENT_KIND_REMOTE,
        reason=route.reason,
        attempts=len(route.attempts),
    )


def _timings(timings: generation_pb2.Timings) -> Timings:
    return Timings(
        queue_s=timings.queue.ToNanoseconds() / 1e9,
        ttft_s=timings.ttft.ToNanoseconds() / 1e9 if timings.HasField("ttft") else None,
        tpot_s=timings.tpot.ToNanoseconds() / 1e9 if timings.HasField("tpot") else None,
        total_s=timings.total.ToNanoseconds() / 1e9,
        longest_gap_s=timings.longest_gap.ToNanoseconds() / 1e9
        if timings.HasField("longest_gap")
        else None,
    )
