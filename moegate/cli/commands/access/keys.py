"""`moegate keys`: API keys of a running gateway: made, listed, changed, rotated, revoked."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from moegate.cli.channel import add_channel_arguments, call_method
from moegate.cli.command_runner import CommandFailed
from moegate.cli.commands.access.calling import (
    TIMEOUT_S,
    Work,
    print_json,
    run_with_stub,
)
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.keys import keys_table, time_text
from moegate.v1 import admin_pb2, generation_pb2

if TYPE_CHECKING:
    from moegate.cli.commands.access.calling import Stub
ROLES = {
    "caller": admin_pb2.KEY_ROLE_CALLER,
    "tenant-admin": admin_pb2.KEY_ROLE_TENANT_ADMIN,
    "operator": admin_pb2.KEY_ROLE_OPERATOR,
}
CLASSES = {
    "interactive": generation_pb2.SLO_CLASS_INTERACTIVE,
    "standard": generation_pb2.SLO_CLASS_STANDARD,
    "batch": generation_pb2.SLO_CLASS_BATCH,
}
LIMITS = (
    ("requests_per_minute", "RPCs a minute"),
    ("tokens_per_minute", "prompt and output tokens a minute"),
    ("concurrent_requests", "RPCs at once"),
    ("max_output_tokens", "largest output limit of a request"),
    ("message_bytes", "largest request"),
)
NEVER = "never"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")

    def kind(name: str, work: Work, text: str) -> argparse.ArgumentParser:
        made = kinds.add_parser(name, help=text)
        add_channel_arguments(made)
        made.add_argument("--json", action="store_true", help="print JSON")
        made.set_defaults(run=partial(run_with_stub, work))
        return made

    create = kind("create", _create, "make a key; its secret is shown this once")
    create.add_argument("key_id", nargs="?", default="", help="its name; absent: one is made")
    create.add_argument("--tenant", default="", help="absent: that of your own key")
    listed = kind("list", _list, "the keys of the configuration file, and those made at run time")
    listed.add_argument("key_id", nargs="?", default="", help="only this one")
    listed.add_argument("--tenant", default="", help="only of this one")
    listed.add_argument("--revoked", action="store_true", help="also those that were revoked")
    update = kind("update", _update, "change what a key may do; what is not given stays")
    rotate = kind("rotate", _rotate, "give a key another secret, shown this once")
    rotate.add_argument(
        "--grace",
        type=_duration,
        default=0,
        metavar="TIME",
        help="how long the old one goes on, such as 24h; absent: it ends at once",
    )
    revoke = kind("revoke", _revoke, "end a key for good")
    for made in (update, rotate, revoke):
        made.add_argument("key_id", help="the key")
    for made in (create, update):
        _add_settings(made)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", choices=ROLES)
    parser.add_argument("--model", action="append", metavar="NAME", help="may be given again")
    parser.add_argument("--all-models", action="store_true", help="every model")
    parser.add_argument(
        "--slo-class", action="append", choices=CLASSES, help="may be given again; first: default"
    )
    parser.add_argument(
        "--remote-class", action="append", metavar="NAME", help="may see its content; again"
    )
    parser.add_argument("--no-remotes", action="store_true", help="no remote may see its content")
    parser.add_argument("--max-priority", type=int, metavar="0-10")
    parser.add_argument("--min-ttft-s", type=float, metavar="S", help="shortest TTFT to ask for")
    parser.add_argument("--min-tpot-s", type=float, metavar="S", help="shortest TPOT to ask for")
    for name, text in LIMITS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
    parser.add_argument(
        "--expires",
        type=_expiry,
        metavar="TIME",
        help="in 90d, 12h, 30m; at 2027-01-31 or 2027-01-31T12:00Z; never",
    )


async def _create(stub: Stub, args: argparse.Namespace) -> None:
    settings, _ = _settings(args)
    request = admin_pb2.CreateKeyRequest(key_id=args.key_id, tenant=args.tenant, settings=settings)
    answer = await call_method(args, stub.CreateKey, request, TIMEOUT_S)
    _show_secret(args, answer, answer.key, answer.secret)


async def _list(stub: Stub, args: argparse.Namespace) -> None:
    keys: list[admin_pb2.Key] = []
    request = admin_pb2.ListKeysRequest(
        tenant=args.tenant, key_id=args.key_id, with_revoked=args.revoked, page_size=1000
    )
    while True:
        answer = await call_method(args, stub.ListKeys, request, TIMEOUT_S)
        keys += answer.keys
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    if args.json:
        print_json(*keys, name="keys")
    else:
        table_console().print(keys_table(keys))


async def _update(stub: Stub, args: argparse.Namespace) -> None:
    settings, given = _settings(args)
    if not given:
        raise CommandFailed("nothing to change: see `moegate keys update --help`")
    answer = await call_method(
        args,
        stub.UpdateKey,
        admin_pb2.UpdateKeyRequest(
            key_id=args.key_id, settings=settings, update_mask=FieldMask(paths=given)
        ),
        TIMEOUT_S,
    )
    if args.json:
        print_json(answer)
    else:
        table_console().print(keys_table([answer.key]))


async def _rotate(stub: Stub, args: argparse.Namespace) -> None:
    grace = Duration(seconds=args.grace) if args.grace else None
    request = admin_pb2.RotateKeyRequest(key_id=args.key_id, grace=grace)
    answer = await call_method(args, stub.RotateKey, request, TIMEOUT_S)
    _show_secret(args, answer, answer.key, answer.secret)


async def _revoke(stub: Stub, args: argparse.Namespace) -> None:
    request = admin_pb2.RevokeKeyRequest(key_id=args.key_id)
    answer = await call_method(args, stub.RevokeKey, request, TIMEOUT_S)
    if args.json:
        print_json(answer)
    else:
        print(f"{args.key_id} of {answer.key.tenant} is revoked; what runs with it ends by itself")


def _show_secret(args: argparse.Namespace, answer: Any, key: admin_pb2.Key, secret: str) -> None:
    if args.json:
        print_json(answer)
        return
    print(f"# Key {key.key_id} of {key.tenant}. It is shown this once and kept nowhere: hand it to")
    print("# its user.")
    print(secret)
    if ends := time_text(key.settings.expires_at):
        print(f"# It expires at {ends} UTC.")
    if key.secrets > 1:
        print(f"# {key.secrets - 1} older secrets of it go on for their grace periods.")


def _settings(args: argparse.Namespace) -> tuple[admin_pb2.KeySettings, list[str]]:
    """What was asked for, and which of its fields were given."""
    settings = admin_pb2.KeySettings()
    given: list[str] = []
    if args.role is not None:
        settings.role = ROLES[args.role]
        given.append("role")
    if args.model or args.all_models:
        settings.models.extend(args.model or ())
        given.append("models")
    if args.slo_class:
        settings.slo_classes.extend(CLASSES[name] for name in args.slo_class)
        given.append("slo_classes")
    if args.remote_class or args.no_remotes:
        settings.remote_classes.names.extend(args.remote_class or ())
        settings.remote_classes.SetInParent()
        given.append("remote_classes")
    for name in ("max_priority", "min_ttft_s", "min_tpot_s"):
        if (value := getattr(args, name)) is not None:
            setattr(settings, name, value)
            given.append(name)
    for name, _ in LIMITS:
        if (value := getattr(args, name)) is not None:
            setattr(settings.limits, name, value)
            given.append(f"limits.{name}")
    if args.expires is not None:
        if args.expires != NEVER:
            settings.expires_at.FromDatetime(args.expires)
        given.append("expires_at")
    return settings, given


def _duration(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: a number and s, m, h or d, such as 24h")
    return int(found[1]) * _UNITS[found[2]]


def _expiry(text: str) -> datetime | str:
    if text == NEVER:
        return NEVER
    if re.fullmatch(r"[0-9]{1,6}[smhd]", text):
        return datetime.now(UTC) + timedelta(seconds=_duration(text))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: 90d, 12h, 30m, 2027-01-31, 2027-01-31T12:00Z or never"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
