"""`moegate serve FILE`: runs the gateway."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvloop

from gateway.config.problems import ConfigError
from gateway.fronts.processes import MAX_FRONTS
from gateway.server import serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument("file", type=Path, help="configuration file (YAML)")
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    parser.add_argument(
        "--fronts",
        type=int,
        default=0,
        metavar="N",
        help=(
            "run N front processes beside the scheduler's, to use more cores (default: one process"
            f" does it all; at most {MAX_FRONTS})"
        ),
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    if not 0 <= args.fronts <= MAX_FRONTS:
        print(f"--fronts {args.fronts}: give 0 to {MAX_FRONTS}", file=sys.stderr)
        return 2
    try:
        uvloop.run(serve(args.file, args.log_level, args.fronts))
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
