"""`moegate key`: generates an API key, or hashes an existing one."""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys

import msgspec

from gateway.auth.authenticator import MAX_KEY_CHARACTERS
from gateway.config.gateway import Name
from gateway.config.resolve.api_keys import key_sha256

KEY_BYTES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--id", help="name of the key in logs and accounts (default: from its hash)")
    what.add_argument(
        "--hash", action="store_true", help="read a key from standard input, print its SHA-256"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a new key. It is stored nowhere: the configuration has only its hash."""
    if args.hash:
        return _hash()
    key = f"mg-{secrets.token_urlsafe(KEY_BYTES)}"
    digest = key_sha256(key)
    key_id = args.id if args.id is not None else f"key-{digest[:8]}"
    try:
        msgspec.convert(key_id, Name)
    except msgspec.ValidationError:
        print(
            f"--id {key_id!r}: letters, digits, dots, underscores and hyphens, at most 63, "
            "the first a letter or digit",
            file=sys.stderr,
        )
        return 2
    print("# The key. It is shown this once and kept nowhere: hand it to its user.")
    print(key)
    print("# For the configuration file, below `keys:` of a tenant. It may use every model, unless")
    print("# `models:` is added.")
    print(f'      - id: "{key_id}"')
    print(f'        sha256: "{digest}"')
    return 0


def _hash() -> int:
    if sys.stdin.isatty():
        key = getpass.getpass("key: ")
    else:
        key = sys.stdin.readline(MAX_KEY_CHARACTERS + 2).removesuffix("\n").removesuffix("\r")
    if not key or len(key) > MAX_KEY_CHARACTERS:
        print(f"standard input: no key of 1 to {MAX_KEY_CHARACTERS} characters", file=sys.stderr)
        return 1
    if not key.isascii() or not key.isprintable() or " " in key:
        print("standard input: a key is visible ASCII without spaces", file=sys.stderr)
        return 1
    print(key_sha256(key))
    return 0
