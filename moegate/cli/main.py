"""The console script `moegate`: each command is a module of `moegate/cli/commands/`.

Only the module of the given command is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

COMMANDS = {
    "up": "start vLLM with a model on this machine, and the gateway before it",
    "serve": "run the gateway",
    "check": "check a configuration file",
    "key": "make an API key and its lines for the configuration file",
    "chat": "send one prompt and print the answer",
    "demo": "simulated fleet, gateway and load with a live table, in about a minute",
    "prices": "show, check and draft dated prices",
    "simulate-vllm": "a simulated vLLM server, no GPU needed",
    "inspect": "a model's facts, KV cache per token, knees and smallest deployments",
    "plan": "how many GPUs, at what cost per token, and how much overflow",
    "batch": "offline jobs: submit a file, progress, results",
    "usage": "what was spent, by tenant, key, model, time",
    "cost": "what an own pool's tokens cost (an operator's key)",
    "admin": "drain, reload, budgets, corrections",
    "keys": "API keys of a running gateway: create, list, update, rotate, revoke",
    "tenants": "tenants of a running gateway: list, set, delete",
    "audit": "who did what to a running gateway",
    "top": "watch the fleet: replicas, batches, tokens/s, $/M, queue, overflow",
    "explain": "why a request ran where it did",
}
"""Commands with their one-line help, so that `moegate --help` imports none of their modules."""
FOLDERS = {"keys": "access.keys", "tenants": "access.tenants", "audit": "access.audit"}
"""Commands whose modules are in a folder below `moegate/cli/commands/`."""
PACKAGES = ("gateway", "scheduler", "simulation")
"""Top-level packages of moegate with names that other distributions use, too."""
ROOT = Path(__file__).resolve().parents[2]
"""The folder that moegate is installed in: `PACKAGES` are beside the folder of this package."""


class _Parser(argparse.ArgumentParser):
    """A parser that reports unknown arguments with the usage of the command that received them."""

    def parse_known_args(  # type: ignore[override]  # the stub's overloads are of namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses like the base class, but exits with status 2 if an argument is unknown."""
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
        if Path(path).resolve().parent != ROOT / name:
            return name, path
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status."""
    if foreign := foreign_package():
        name, path = foreign
        print(
            f"moegate: {path} hides moegate's own package `{name}`: install moegate in an "
            "environment of its own (container, pipx, uv tool)",
            file=sys.stderr,
        )
        return 1
    # grpc core writes to stderr past every logger, a line for each TLS handshake that a stranger
    # lets fail. It reads the variable when a command imports gRPC.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(prog="moegate", description="gRPC inference gateway for MoE models on vLLM")
    parser.add_argument("--version", action="version", version=f"moegate {version('moegate')}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = subparsers.add_parser(name, help=text)
        # `moegate key` does not wait for the modules that `moegate demo` needs.
        if name in arguments[:1]:
            path = FOLDERS.get(name, name.replace("-", "_"))
            module = importlib.import_module(f"moegate.cli.commands.{path}")
            module.add_arguments(command)
    if not arguments:
        parser.print_help()
        return 0
    args = parser.parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # `moegate check --schema | head`: the reader closed the pipe, and Python would fail again
        # when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


if __name__ == "__main__":
    raise SystemExit(main())
