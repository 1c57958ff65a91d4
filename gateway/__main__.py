"""The console script `moegate`: one subcommand a module of `gateway/commands/`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

COMMANDS = ("serve", "check", "key", "chat", "demo", "simulate_vllm", "up")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="moegate", description="gRPC inference gateway for MoE models on vLLM"
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"gateway.commands.{name}").add_parser(subparsers)
    args = parser.parse_args(argv)
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
