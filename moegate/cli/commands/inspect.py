"""`moegate inspect MODEL`: size, predicted speed and smallest deployments of a model."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from moegate.cli.models import KV_BYTES, declare_memory, named_model, server_memory
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.model_report import catalog_table, figures, on_gpu, report
from simulation.catalog.deployment import FORMATS, in_format
from simulation.catalog.gpus import GPUS
from simulation.catalog.hf_fields import UnreadableConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="folder of a model, its config.json, or a name of the catalog",
    )
    parser.add_argument("--list", action="store_true", help="the models of the catalog")
    parser.add_argument("--weights", choices=FORMATS, help="format of the weights; absent: as is")
    declare_memory(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0, 1 if the model cannot be read, 2 if no model was named."""
    if args.list:
        table_console().print(catalog_table())
        return 0
    if args.model is None:
        print("moegate inspect: name a model, or give --list", file=sys.stderr)
        return 2
    try:
        model = named_model(args.model)
    except UnreadableConfig as error:
        print(f"moegate inspect: {error}", file=sys.stderr)
        return 1
    if args.weights is not None:
        model = in_format(model, args.weights)
    kv_bytes, server = KV_BYTES[args.kv_cache_dtype], server_memory(args)
    rows = [on_gpu(model, gpu, kv_bytes, server) for gpu in GPUS.values()]
    if args.json:
        facts = {**asdict(model), **figures(model, kv_bytes)}
        print(json.dumps({**facts, "deployments": [asdict(row) for row in rows]}, indent=2))
    else:
        table_console().print(report(model, kv_bytes, rows))
    return 0
