"""`moegate simulate-vllm`: a server with vLLM's interface and the step times of a MoE model."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys

import uvloop

from moegate.simulated_vllm.config import ModelTask, SimulatedVllmConfig
from moegate.simulated_vllm.faults.flags import parse_faults
from moegate.simulated_vllm.faults.kinds import OWN_KEYS
from moegate.simulated_vllm.lora.adapters import module_of
from moegate.simulated_vllm.pair.proxy import simulated_pair
from moegate.simulated_vllm.server import simulated_vllm
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from simulation.engine.physics import ExpertLoad

_DEFAULTS = SimulatedVllmConfig()
_MODEL = QWEN3_30B_H100
_FAULT_KINDS = "Kinds, with their keys: " + ", ".join(
    f"{kind} ({', '.join(keys)})" if keys else kind for kind, keys in OWN_KEYS.items()
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--host", default=_DEFAULTS.host, help="address to listen on")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
    add("--served-model-name", default=_DEFAULTS.served_model_name, metavar="NAME", help="model")
    for name, text in (
        ("max-model-len", "tokens of prompt and output"),
        ("data-parallel-size", "ranks, each with its own batch and KV cache"),
        ("max-num-seqs", "sequences that a rank runs at once"),
        ("max-num-batched-tokens", "tokens of one step"),
        ("num-gpu-blocks", "blocks of the KV cache"),
        ("block-size", "tokens of a block"),
        ("seed", "of the answers and of the noise"),
        ("stream-interval", "tokens a chunk"),
    ):
        field = name.replace("-", "_")
        add(f"--{name}", type=int, default=getattr(_DEFAULTS, field), metavar="N", help=text)
    add("--speed", type=float, default=1.0, metavar="X", help="time factor: 2 is twice as fast")
    add("--max-num-queued-reqs", type=int, metavar="N", help="beyond it requests get 503")
    add(
        "--mean-answer-tokens",
        type=float,
        default=_DEFAULTS.mean_answer_tokens,
        metavar="N",
        help="mean length of answers that end by themselves",
    )
    add(
        "--task",
        type=ModelTask,
        choices=list(ModelTask),
        default=_DEFAULTS.task,
        help="what the model does",
    )
    add("--matryoshka", action="store_true", help="a model that embeds can shorten its vectors")
    add(
        "--api-key",
        metavar="KEY",
        help="what callers of /v1 must send; better in VLLM_API_KEY, as arguments show in `ps`",
    )
    add(
        "--enable-prompt-tokens-details",
        action="store_true",
        help="tell the cached tokens in the usage",
    )
    add("--enable-lora", action="store_true", help="have LoRA adapters, also loaded at run time")
    add(
        "--lora-modules",
        nargs="+",
        type=module_of,
        default=(),
        metavar="NAME=PATH",
        help="adapters that are loaded; the path is only told",
    )
    add("--max-loras", type=int, default=1, metavar="N", help="adapters in one batch of a rank")
    add(
        "--enable-per-request-metrics",
        action="store_true",
        help="tell how long the engine worked on each request",
    )
    add(
        "--reasoning-parser",
        metavar="NAME",
        help="the model thinks first, and its reasoning is told apart from the answer",
    )
    add(
        "--call",
        nargs="+",
        type=_call,
        default=(),
        metavar="TOOL=JSON",
        help="call this tool with these arguments, where a chat offers it and has no result yet",
    )
    add(
        "--disaggregated",
        action="store_true",
        help="a prefill and a decode engine on the next two ports, behind a proxy on --port",
    )
    add(
        "--fault",
        action="append",
        metavar="KIND[:KEY=VALUE,...]",
        help=f"make something go wrong; may be repeated. {_FAULT_KINDS}. Every kind takes"
        " probability (of a request), first (requests), after_seconds and seed; as in"
        " cut:after_tokens=5,probability=0.1 or status:code=503,first=3",
    )
    model = parser.add_argument_group("step time", "defaults: Qwen3-30B-A3B in BF16 on one H100")
    add = model.add_argument
    for name, value, text in (
        ("experts", _MODEL.experts, "routed experts per layer"),
        ("experts-per-token", _MODEL.experts_per_token, "experts that each token takes"),
    ):
        add(f"--{name}", type=int, default=value, metavar="N", help=text)
    add("--base-ms", type=float, default=_MODEL.base_s * 1e3, metavar="MS", help="of each step")
    for name, time, text in (
        ("expert-us", _MODEL.expert_s * 1e6, "per distinct expert"),
        ("sequence-us", _MODEL.sequence_s * 1e6, "per sequence"),
        ("kv-token-ns", _MODEL.kv_token_s * 1e9, "per KV token in the batch"),
        ("prefill-token-us", _MODEL.prefill_token_s * 1e6, "per uncached prompt token"),
    ):
        add(f"--{name}", type=float, default=round(time, 9), metavar=name[-2:].upper(), help=text)
    add("--expert-zipf", type=float, default=0.0, metavar="X", help="skew of the routers: 0 none")
    add("--expert-ranks", type=int, default=1, metavar="N", help="ranks that the experts lie on")
    add("--count-experts", action="store_true", help="tell the experts of each step in the feed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    try:
        serve = _serve_pair if args.disaggregated else _serve
        uvloop.run(serve(_config(args)))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _stop_signal() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


async def _serve_pair(config: SimulatedVllmConfig) -> None:
    stopped = _stop_signal()
    prefill, decode = (
        dataclasses.replace(config, port=config.port and config.port + further)
        for further in (1, 2)
    )
    async with simulated_pair(prefill, decode, host=config.host, port=config.port) as pair:
        print(
            f"simulated vLLM on {pair.url} serving {config.served_model_name}:"
            f" prefill {pair.prefill.url}, decode {pair.decode.url}",
            flush=True,
        )
        await stopped.wait()


async def _serve(config: SimulatedVllmConfig) -> None:
    stopped = _stop_signal()
    async with simulated_vllm(config, _die) as server:
        name = config.served_model_name
        print(f"simulated vLLM on {server.url} serving {name}", flush=True)
        await stopped.wait()


def _die() -> None:
    """Kills this process without any cleanup, like the kernel's out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def _config(args: argparse.Namespace) -> SimulatedVllmConfig:
    """Makes the configuration from the flags. Raises ValueError."""
    names = {field.name for field in dataclasses.fields(SimulatedVllmConfig)}
    given = {name: value for name, value in vars(args).items() if name in names}
    given["api_key"] = args.api_key or os.environ.get("VLLM_API_KEY") or None
    given["lora_modules"] = tuple(args.lora_modules)
    given["tool_calls"] = tuple(args.call)
    faults = parse_faults(args.fault or ())
    load = ExpertLoad(zipf_exponent=args.expert_zipf, expert_ranks=args.expert_ranks, eplb=False)
    return SimulatedVllmConfig(
        **given, step_model=_step_model(args), faults=faults, expert_load=load
    )


def _step_model(args: argparse.Namespace) -> StepModel:
    if not 1 <= args.experts_per_token <= args.experts:
        raise ValueError("--experts-per-token must be between 1 and --experts")
    times = (args.base_ms, args.expert_us, args.sequence_us, args.kv_token_ns)
    if min(*times, args.prefill_token_us) < 0:
        raise ValueError("times must not be negative")
    return dataclasses.replace(
        _MODEL,
        experts=args.experts,
        experts_per_token=args.experts_per_token,
        base_s=args.base_ms / 1e3,
        expert_s=args.expert_us / 1e6,
        sequence_s=args.sequence_us / 1e6,
        kv_token_s=args.kv_token_ns / 1e9,
        prefill_token_s=args.prefill_token_us / 1e6,
    )


def _call(text: str) -> tuple[str, str]:
    """Name and arguments of TOOL=JSON."""
    name, _, arguments = text.partition("=")
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except ValueError:
        is_object = False
    if not name or not is_object:
        raise argparse.ArgumentTypeError(f"{text!r}: write TOOL=JSON, with a JSON object")
    return name, arguments
