"""The console script `moegate`: one subcommand a module of `moegate/cli/commands/`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

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
PACKAGES = ("gateway", "scheduler", "simulation")
"""Top-level packages of moegate with names that other distributions use, too."""
ROOT = Path(__file__).resolve().parents[2]
"""The folder that moegate is installed in: `PACKAGES` are beside the folder of this package."""


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


def foreign_package() -> tuple[str, str] | None:
    """Name and path of the first of `PACKAGES` that Python would import from somewhere else.

    None: every package is moegate's own. Nothing is imported.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None:
            continue  # the installation is incomplete, and the import says so
        path = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
        if Path(path).resolve() != ROOT / name / "__init__.py":
            return name, path
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit status."""
    if foreign := foreign_package():
        name, path = foreign
        print(
            f"moegate: {path} hides moegate's own package `{name}`: install moegate in an "
            "environment of its own (container, pipx, uv tool)",
            file=sys.stderr,
        )
        return 1
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
