"""`moegate serve FILE`: runs the gateway."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvloop

from gateway.config.problems import ConfigError
from gateway.server import serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    parser.add_argument("file", type=Path, help="configuration file (YAML)")
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    try:
        uvloop.run(serve(args.file, args.log_level))
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
