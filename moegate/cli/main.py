"""The console script `moegate`: one subcommand a module of `moegate/cli/commands/`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

COMMANDS = (
    "up",
    "serve",
    "check",
    "key",
    "chat",
    "demo",
    "prices",
    "simulate-vllm",
    "inspect",
    "plan",
    "usage",
    "cost",
    "admin",
    "top",
    "explain",
)


class _Parser(argparse.ArgumentParser):
    """Tells of unknown arguments with the usage of the subcommand that got them."""

    def parse_known_args(  # type: ignore[override]  # the stub's overloads are of namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As its base does it, but nothing is left over. Exits with status 2 otherwise."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(prog="moegate", description="gRPC inference gateway for MoE models on vLLM")
    parser.add_argument("--version", action="version", version=f"moegate {version('moegate')}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    # Only the command that is wanted is imported: `key` need not wait for what `demo` needs.
    wanted = [name for name in COMMANDS if name in arguments[:1]] or COMMANDS
    for name in wanted:
        module = importlib.import_module(f"moegate.cli.commands.{name.replace('-', '_')}")
        module.add_parser(subparsers)
    args = parser.parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # `moegate check --schema | head`: the reader has enough. Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


if __name__ == "__main__":
    raise SystemExit(main())
