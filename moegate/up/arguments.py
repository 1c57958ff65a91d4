"""The arguments of `moegate up`, and the plan that follows from them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.config.gateway import GpuConfig, UsdPerHour
from gateway.config.server import ServerConfig
from moegate.up.launch import (
    DEFAULT_MAX_NUM_SEQS,
    Launch,
    check_flags,
    default_name,
    with_rust_front_end,
)
from moegate.up.machine import CannotLaunch, find_vllm
from moegate.up.plan import UpPlan
from moegate.up.tiny import MOE, tiny_launch


def declare(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments to a parser."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="as `vllm serve` takes it")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="a tiny random MoE on vLLM's CPU build, made on the spot",
    )
    parser.add_argument("--served-model-name", metavar="N", type=_name, help="that clients use")
    parser.add_argument(
        "--listen", default="127.0.0.1:50051", type=_listen, help="of the gateway (%(default)s)"
    )
    parser.add_argument("--data-parallel-size", type=_count, default=1, metavar="N")
    parser.add_argument("--tensor-parallel-size", type=_count, default=1, metavar="N")
    parser.add_argument("--enable-expert-parallel", action="store_true")
    parser.add_argument("--max-model-len", type=_count, metavar="N", help="absent: the model's")
    parser.add_argument(
        "--max-num-seqs",
        type=_count,
        metavar="N",
        help=f"sequences that a rank runs at once ({DEFAULT_MAX_NUM_SEQS})",
    )
    parser.add_argument("--gpu-type", type=_name, metavar="T", help="such as H100-80GB")
    parser.add_argument(
        "--gpus", type=_count, metavar="N", help="in all; absent: as many as the ranks take"
    )
    parser.add_argument("--usd-per-gpu-hour", type=_price, metavar="P", help="absent: unknown")
    parser.add_argument(
        "--no-engine-feed",
        dest="engine_feed",
        action="store_false",
        help="without the plugin that tells the gateway vLLM's single steps;"
        " its front end in Rust has none",
    )
    parser.add_argument(
        "--count-experts",
        action="store_true",
        help="the plugin also tells which experts the routers choose (docs/engine-feed.md)",
    )
    parser.add_argument(
        "--vllm",
        type=Path,
        metavar="PATH",
        help="the vllm executable; absent: beside this Python, in .venv-vllm, or on the PATH",
    )
    parser.add_argument(
        "--start-limit-s",
        type=_seconds,
        default=1800.0,
        metavar="S",
        help="until it serves, downloads included (%(default)g)",
    )
    _split_at_dashes(parser)


def up_plan(args: argparse.Namespace) -> UpPlan:
    """Makes the plan from the arguments. Raises CannotLaunch."""
    if args.tiny == (args.model is not None):
        raise CannotLaunch("name a MODEL, or give --tiny" + (", not both" if args.tiny else ""))
    flags = tuple(args.vllm_flags)
    check_flags(flags)
    engine_feed = args.engine_feed and not with_rust_front_end(os.environ)
    if args.count_experts and not engine_feed:
        raise CannotLaunch(
            "--count-experts needs the engine feed: leave --no-engine-feed out, and the front end"
            " in Rust, which cannot load the plugin"
        )
    if args.tiny:
        if args.data_parallel_size * args.tensor_parallel_size > 1 or args.enable_expert_parallel:
            raise CannotLaunch("--tiny runs on one CPU rank: vLLM's CPU build has no more for MoE")
        launch = tiny_launch(
            served_model_name=args.served_model_name,
            max_model_len=args.max_model_len,
            max_num_seqs=args.max_num_seqs,
            engine_feed=engine_feed,
            count_experts=args.count_experts,
            flags=flags,
        )
    else:
        launch = Launch(
            model=args.model,
            served_model_name=args.served_model_name or default_name(args.model),
            data_parallel_size=args.data_parallel_size,
            tensor_parallel_size=args.tensor_parallel_size,
            expert_parallel=args.enable_expert_parallel,
            max_model_len=args.max_model_len,
            max_num_seqs=args.max_num_seqs or DEFAULT_MAX_NUM_SEQS,
            engine_feed=engine_feed,
            count_experts=args.count_experts,
            flags=flags,
        )
    gpu = GpuConfig(
        type=args.gpu_type or ("CPU" if args.tiny else "unknown"),
        count=args.gpus or launch.gpus,
        usd_per_gpu_hour=args.usd_per_gpu_hour,
    )
    return UpPlan(
        vllm=find_vllm(args.vllm),
        launch=launch,
        listen=args.listen,
        gpu=gpu,
        builds_model=args.tiny,
        moe=MOE if args.tiny else None,
        start_limit_s=args.start_limit_s,
    )


def _split_at_dashes(parser: argparse.ArgumentParser) -> None:
    """Removes the words after the first -- before argparse, which would take them for MODEL."""
    parse = parser.parse_known_args

    def parse_before(
        words: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        before = list(words or ())
        after: list[str] = []
        if "--" in before:
            at = before.index("--")
            before, after = before[:at], before[at + 1 :]
        parsed, unknown = parse(before, namespace)
        parsed.vllm_flags = after
        return parsed, unknown

    parser.parse_known_args = parse_before  # type: ignore[method-assign, assignment]


def _price(text: str) -> str:
    try:
        return msgspec.convert({"price": text}, dict[str, UsdPerHour])["price"]
    except msgspec.ValidationError:
        message = f"{text!r}: US dollars as a decimal number, such as 2.10, are needed"
        raise argparse.ArgumentTypeError(message) from None


def _listen(text: str) -> str:
    try:
        return msgspec.convert({"listen": text}, ServerConfig).listen
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r}: host:port is needed") from None


def _name(text: str) -> str:
    if not (0 < len(text) <= 256 and text.isprintable() and not text.startswith("-")):
        raise argparse.ArgumentTypeError(f"{text!r}: 1 to 256 printable characters are needed")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 40):
        raise argparse.ArgumentTypeError(f"{text!r}: a count of at least 1 is needed")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: seconds above 0 are needed, at most a day")
    return value
