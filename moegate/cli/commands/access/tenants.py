"""`moegate tenants`: tenants of a running gateway."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from moegate.cli.channel import add_channel_arguments, call_method
from moegate.cli.commands.access.calling import TIMEOUT_S, Work, print_json, run_with_stub
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.keys import tenants_table
from moegate.v1 import admin_pb2

if TYPE_CHECKING:
    from moegate.cli.commands.access.calling import Stub

NONE = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")

    def kind(name: str, work: Work, text: str) -> argparse.ArgumentParser:
        made = kinds.add_parser(name, help=text)
        add_channel_arguments(made)
        made.add_argument("--json", action="store_true", help="print JSON")
        made.set_defaults(run=partial(run_with_stub, work))
        return made

    kind("list", _list, "the tenants of the configuration file, and those made at run time")
    set_ = kind(
        "set", _set, "make a tenant, or change one made at run time; what is not given stays"
    )
    set_.add_argument("--weight", type=float, help="its share of a saturated model; a new one: 1")
    set_.add_argument(
        "--rpcs",
        type=_bound,
        metavar="N",
        help="most of its RPCs in progress; none: as many as limits.tenant_rpcs allows",
    )
    delete = kind("delete", _delete, "take away a tenant made at run time that has no keys left")
    for named in (set_, delete):
        named.add_argument("name")


async def _list(stub: Stub, args: argparse.Namespace) -> None:
    answer = await call_method(args, stub.ListTenants, admin_pb2.ListTenantsRequest(), TIMEOUT_S)
    if args.json:
        print_json(*answer.tenants, name="tenants")
    else:
        table_console().print(tenants_table(answer.tenants))


async def _set(stub: Stub, args: argparse.Namespace) -> None:
    tenant = admin_pb2.Tenant(name=args.name, weight=args.weight)
    given = [name for name in ("weight", "rpcs") if getattr(args, name) is not None]
    if args.rpcs not in (None, NONE):
        tenant.rpcs = args.rpcs
    request = admin_pb2.SetTenantRequest(tenant=tenant, update_mask=FieldMask(paths=given))
    answer = await call_method(args, stub.SetTenant, request, TIMEOUT_S)
    if args.json:
        print_json(answer)
    else:
        table_console().print(tenants_table([answer.tenant]))


def _bound(text: str) -> int | str:
    if text == NONE:
        return NONE
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: a number, or none") from None


async def _delete(stub: Stub, args: argparse.Namespace) -> None:
    request = admin_pb2.DeleteTenantRequest(name=args.name)
    answer = await call_method(args, stub.DeleteTenant, request, TIMEOUT_S)
    if args.json:
        print_json(answer)
    else:
        print(f"{args.name} is deleted")
