"""The arguments of `moegate plan`, and the planner's input that they make."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from gateway.config.gateway import SloClassesConfig
from moegate.cli.models import KV_BYTES, declare_memory, named_model, server_memory
from simulation.catalog.arithmetic import expected_tokens_per_step
from simulation.catalog.deployment import (
    FORMATS,
    KvCapacity,
    in_format,
    kv_capacity,
    smallest_deployment,
    usual_parallelism,
)
from simulation.catalog.facts import ModelFacts
from simulation.catalog.gpus import GPUS, GpuFacts, find_gpu
from simulation.catalog.hf_fields import UnreadableConfig
from simulation.catalog.memory import ServerMemory
from simulation.catalog.prior import Parallelism, prior
from simulation.generators import (
    AGENT_SESSIONS,
    AZURE_CODE,
    AZURE_CONVERSATION,
    MOONCAKE_CONVERSATION,
    sessions,
    single_turns,
)
from simulation.planner.capacity import Replica, Slo
from simulation.planner.demand import Demand, demand_of, drawn_demand, mean_lengths
from simulation.planner.economics import RemotePrice
from simulation.planner.operating import Lengths
from simulation.planner.plan import CannotPlan
from simulation.traces import TraceRow, parse_azure, parse_mooncake, spread_bins

GENERATED_ROWS = 20_000
SEED = 20_260
DEMAND_CV = 0.6
"""Coefficient of variation of the rate between the minutes of a day. It gives a day whose busiest
hour has about 2.5 times the mean rate."""
DEFAULT_ACCEPTANCE = 0.7
"""Share of draft tokens that is accepted: what multi-token-prediction heads reach on chats."""
WORKLOADS = ("azure-conversation", "azure-code", "mooncake-conversation", "agents")
_DEFAULT_SLO = SloClassesConfig().interactive


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInput:
    """Input of the planner.

    Attributes:
        server: settings that the KV cache depends on.
        kv_capacity: of one replica, likely and range.
        workload: its source in words.
    """

    model: ModelFacts
    gpu: GpuFacts
    parallelism: Parallelism
    server: ServerMemory
    kv_capacity: KvCapacity
    replica: Replica
    demand: Demand
    slo: Slo
    remotes: tuple[RemotePrice, ...]
    workload: str


def declare(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments to a parser."""
    parser.add_argument(
        "model", metavar="MODEL", help="folder of a model, its config.json, or a catalog name"
    )
    own = parser.add_argument_group("replica")
    own.add_argument("--gpu", required=True, help=f"{', '.join(GPUS)}")
    own.add_argument("--gpus", type=_count, metavar="N", help="of one replica; absent: fewest")
    own.add_argument(
        "--data-parallel-size", type=_count, metavar="N", help="ranks; absent: one per 8 GPUs"
    )
    own.add_argument("--weights", choices=FORMATS, help="format of the weights; absent: as is")
    declare_memory(own)
    own.add_argument("--max-num-seqs", type=_count, default=256, metavar="N", help="(%(default)s)")
    own.add_argument(
        "--async-scheduling",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="vLLM prepares a step during the one before; its default since 0.14",
    )
    own.add_argument(
        "--draft-tokens", type=_count, metavar="N", help="of speculative decoding; absent: none"
    )
    own.add_argument(
        "--acceptance",
        type=_share,
        default=DEFAULT_ACCEPTANCE,
        metavar="S",
        help="share of the draft tokens that is accepted (%(default)s)",
    )
    own.add_argument(
        "--usd-per-gpu-hour", type=_positive, metavar="P", help="absent: no costs are told"
    )
    work = parser.add_argument_group("workload: one of")
    work.add_argument("--workload", choices=WORKLOADS, help="lengths of a public trace")
    work.add_argument(
        "--trace", type=Path, metavar="FILE", help="Azure CSV, or Mooncake JSON lines"
    )
    work.add_argument("--prompt-tokens", type=_positive, metavar="N", help="mean")
    rate = parser.add_argument_group("and")
    rate.add_argument("--output-tokens", type=_positive, metavar="N", help="mean")
    rate.add_argument(
        "--cached-share",
        type=_share,
        metavar="S",
        help="of the prompt tokens, in the prefix cache; absent: what the workload's prefixes give",
    )
    rate.add_argument(
        "--requests-per-s", type=_positive, metavar="R", help="mean; absent: the trace's"
    )
    rate.add_argument(
        "--demand-cv",
        type=_positive,
        metavar="CV",
        help=f"variation of the rate between minutes; absent: the trace's, else {DEMAND_CV}",
    )
    slo = parser.add_argument_group("service level")
    slo.add_argument("--ttft-s", type=_positive, default=_DEFAULT_SLO.ttft_s, help="(%(default)s)")
    slo.add_argument("--tpot-s", type=_positive, default=_DEFAULT_SLO.tpot_s, help="(%(default)s)")
    parser.add_argument(
        "--remote",
        action="append",
        type=_remote,
        default=[],
        metavar="NAME=IN,CACHED,OUT",
        help="list price in dollars per million tokens; CACHED may be left out; may be repeated",
    )


def plan_input(args: argparse.Namespace) -> PlanInput:
    """Makes the input from the arguments. Raises CannotPlan."""
    try:
        model = named_model(args.model)
    except UnreadableConfig as error:
        raise CannotPlan(str(error)) from None
    if args.weights is not None:
        model = in_format(model, args.weights)
    gpu = find_gpu(args.gpu)
    if gpu is None:
        raise CannotPlan(f"--gpu {args.gpu}: not among {', '.join(GPUS)}")
    demand, workload = _demand(args)
    kv_bytes = KV_BYTES[args.kv_cache_dtype]
    server = server_memory(args, args.max_num_seqs)
    spread = _parallelism(args, model, gpu, server)
    context = demand.lengths.resident_tokens
    step_model = prior(
        model,
        gpu,
        spread,
        kv_value_bytes=kv_bytes,
        context_tokens=context,
        async_scheduling=args.async_scheduling,
    )
    if args.draft_tokens is not None:
        step_model = replace(
            step_model,
            draft_tokens=args.draft_tokens,
            tokens_per_step=expected_tokens_per_step(args.acceptance, args.draft_tokens),
        )
    kv = kv_capacity(
        model, gpu, spread, server=server, kv_value_bytes=kv_bytes, context_tokens=context
    )
    replica = Replica(
        model=step_model,
        kv_capacity_tokens=kv.tokens,
        most_sequences=args.max_num_seqs * spread.data,
        usd_per_hour=None if args.usd_per_gpu_hour is None else args.usd_per_gpu_hour * spread.gpus,
    )
    return PlanInput(
        model=model,
        gpu=gpu,
        parallelism=spread,
        server=server,
        kv_capacity=kv,
        replica=replica,
        demand=demand,
        slo=Slo(ttft_s=args.ttft_s, tpot_s=args.tpot_s),
        remotes=tuple(args.remote),
        workload=workload,
    )


def _parallelism(
    args: argparse.Namespace, model: ModelFacts, gpu: GpuFacts, server: ServerMemory
) -> Parallelism:
    if args.gpus is None:
        kv_bytes = KV_BYTES[args.kv_cache_dtype]
        found = smallest_deployment(model, gpu, server=server, kv_value_bytes=kv_bytes)
        if found is None:
            raise CannotPlan(f"{model.name} fits on no number of {gpu.name} up to 64: see inspect")
        args.gpus = found[0].gpus
    if args.data_parallel_size is None:
        return usual_parallelism(gpu, args.gpus)
    if args.gpus % args.data_parallel_size:
        raise CannotPlan(
            f"--data-parallel-size {args.data_parallel_size}: {args.gpus} GPUs cannot be shared "
            "evenly among so many ranks"
        )
    return Parallelism(
        tensor=args.gpus // args.data_parallel_size,
        data=args.data_parallel_size,
        expert_parallel=args.data_parallel_size > 1,
    )


def _demand(args: argparse.Namespace) -> tuple[Demand, str]:
    given = [args.workload, args.trace, args.prompt_tokens]
    if sum(one is not None for one in given) != 1:
        raise CannotPlan("give one of --workload, --trace and --prompt-tokens")
    measured: Demand | None = None
    if args.trace is not None:
        rows = _read_trace(args.trace)
        try:
            measured = demand_of(rows)
        except ValueError as error:
            raise CannotPlan(f"--trace {args.trace}: {error}") from None
        lengths, name = measured.lengths, args.trace.name
    elif args.workload is not None:
        rows = _generated(args.workload)
        lengths, name = mean_lengths(rows), args.workload
    else:
        if args.output_tokens is None:
            raise CannotPlan("--prompt-tokens needs --output-tokens too")
        lengths = Lengths(
            prompt_tokens=args.prompt_tokens, cached_tokens=0.0, output_tokens=args.output_tokens
        )
        name = "given lengths"
    lengths = _overridden(args, lengths)
    if measured is None and args.requests_per_s is None:
        raise CannotPlan("--requests-per-s is needed, unless a --trace tells it")
    rate = args.requests_per_s or (measured.mean_rate if measured else 0.0)
    if measured is None or args.demand_cv is not None:
        cv = DEMAND_CV if args.demand_cv is None else args.demand_cv
        return drawn_demand(lengths, rate, cv, SEED), name
    scaled = measured.at_mean_rate(rate)
    return Demand(lengths=lengths, rates=scaled.rates, window_s=scaled.window_s), name


def _overridden(args: argparse.Namespace, lengths: Lengths) -> Lengths:
    output = lengths.output_tokens if args.output_tokens is None else args.output_tokens
    cached = lengths.cached_tokens
    if args.cached_share is not None:
        cached = args.cached_share * lengths.prompt_tokens
    return Lengths(prompt_tokens=lengths.prompt_tokens, cached_tokens=cached, output_tokens=output)


def _generated(workload: str) -> list[TraceRow]:
    match workload:
        case "azure-conversation":
            return list(islice(single_turns(AZURE_CONVERSATION, 1.0, SEED), GENERATED_ROWS))
        case "azure-code":
            return list(islice(single_turns(AZURE_CODE, 1.0, SEED), GENERATED_ROWS))
        case "mooncake-conversation":
            return sessions(MOONCAKE_CONVERSATION, 3.0, GENERATED_ROWS, SEED)
        case _:
            return sessions(AGENT_SESSIONS, 3.0, GENERATED_ROWS, SEED)


def _read_trace(path: Path) -> list[TraceRow]:
    try:
        with path.open(encoding="utf-8") as file:
            rows = parse_mooncake(file) if path.suffix == ".jsonl" else parse_azure(file)
    except (OSError, ValueError) as error:
        raise CannotPlan(f"--trace {path}: {error}") from None
    if not rows:
        raise CannotPlan(f"--trace {path}: no rows")
    return spread_bins(rows, SEED)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text!r}: a count of at least 1 is needed")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e12:
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0 is needed")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r}: a share from 0 to below 1 is needed")
    return value


def _remote(text: str) -> RemotePrice:
    name, _, figures = text.partition("=")
    try:
        prices = [float(figure) for figure in figures.split(",")]
    except ValueError:
        prices = []
    if not name or len(prices) not in (2, 3) or not all(0 <= price < 1e6 for price in prices):
        message = f"{text!r}: NAME=IN,OUT or NAME=IN,CACHED,OUT is needed, dollars per million"
        raise argparse.ArgumentTypeError(message)
    return RemotePrice(name=name, input=prices[0], cached_input=prices[-2], output=prices[-1])
