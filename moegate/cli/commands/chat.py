"""`moegate chat PROMPT`: sends one prompt to any moegate server and prints the answer as it comes.

The answer goes to standard output, its usage and route to standard error, so that the answer alone
can be piped.
"""

from __future__ import annotations

import argparse
import sys

from moegate.cli.channel import add_channel_arguments, call_metadata, call_method, open_channel
from moegate.cli.command_runner import CommandFailed, run_command
from moegate.cli.views.money import usd
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2, inference_pb2_grpc

LIST_TIMEOUT_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument("prompt", nargs="+", help="the prompt; several words are joined")
    add_channel_arguments(parser)
    parser.add_argument("--model", help="absent: the first that the server lists")
    parser.add_argument("--system", metavar="TEXT", help="instructions that precede the prompt")
    parser.add_argument("--max-output-tokens", type=_count, metavar="N")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument(
        "--local-only", action="store_true", help="use self-hosted servers only, never a remote"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds for the whole answer (%(default)g)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sends the prompt. Ctrl-C cancels the request."""
    return run_command(_chat(args))


async def _chat(args: argparse.Namespace) -> None:
    metadata = call_metadata(args)
    async with open_channel(args) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        model = args.model
        if model is None:
            listed = await call_method(
                args, stub.ListModels, inference_pb2.ListModelsRequest(), LIST_TIMEOUT_S
            )
            if not listed.models:
                raise CommandFailed(f"{args.target} serves no model that this key may use")
            model = listed.models[0].name
        call = stub.Generate(_request(args, model), metadata=metadata, timeout=args.timeout)
        done: generation_pb2.Done | None = None
        ends_line = True
        try:
            async for event in call:
                if event.HasField("done"):
                    done = event.done
                for choice in event.delta.choices:
                    text = choice.reasoning_text + choice.text
                    print(text, end="", flush=True)
                    ends_line = text.endswith("\n") if text else ends_line
        finally:
            if not ends_line:
                print(flush=True)
        if done is not None:
            print(summary(done), file=sys.stderr)


def _request(args: argparse.Namespace, model: str) -> generation_pb2.GenerateRequest:
    chat = chat_pb2.ChatInput()
    if args.system:
        chat.messages.add(role=chat_pb2.ROLE_SYSTEM, parts=[chat_pb2.ContentPart(text=args.system)])
    prompt = chat_pb2.ContentPart(text=" ".join(args.prompt))
    chat.messages.add(role=chat_pb2.ROLE_USER, parts=[prompt])
    request = generation_pb2.GenerateRequest(model=model, chat=chat)
    # Absent fields take the server's defaults; zero is a value.
    if args.max_output_tokens is not None:
        request.max_output_tokens = args.max_output_tokens
    if args.temperature is not None:
        request.sampling.temperature = args.temperature
    if args.local_only:
        request.data_policy.local_only = True
    return request


def summary(done: generation_pb2.Done) -> str:
    """One line: tokens, times, the placement with its reason, the cost, and the id for
    `moegate explain`."""
    usage, timings, route = done.usage, done.timings, done.route
    cached = f" ({usage.cached_tokens} cached)" if usage.HasField("cached_tokens") else ""
    about = "about " if usage.estimated else ""
    parts = [f"tokens: {about}{usage.prompt_tokens} in{cached}, {usage.completion_tokens} out"]
    if timings.HasField("ttft"):
        parts.append(f"TTFT {timings.ttft.ToNanoseconds() / 1e6:.0f} ms")
    if timings.HasField("tpot"):
        parts.append(f"TPOT {timings.tpot.ToNanoseconds() / 1e6:.1f} ms")
    if timings.HasField("longest_gap"):
        parts.append(f"longest gap {timings.longest_gap.ToNanoseconds() / 1e6:.0f} ms")
    parts.append(f"queue {timings.queue.ToNanoseconds() / 1e6:.0f} ms")
    place = f"{route.target}/{route.replica}" if route.replica else route.target
    attempts = f" after {len(route.attempts)} attempts" if len(route.attempts) > 1 else ""
    parts.append(f"ran on {place}{attempts}: {route.reason}")
    parts.append(_cost(done))
    parts.append(f"request {done.request_id}")
    return " | ".join(parts)


def _cost(done: generation_pb2.Done) -> str:
    cost = done.cost
    parts = [
        f"{name} ${usd(getattr(cost, field))}"
        for name, field in (("charged", "charged_nano_usd"), ("metered", "metered_nano_usd"))
        if cost.HasField(field)
    ]
    return ", ".join(parts) or "cost unknown"


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value < 1 << 32:
        raise argparse.ArgumentTypeError("a count of at least 1")
    return value
