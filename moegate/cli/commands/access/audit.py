"""`moegate audit`: who did what to a running gateway."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from moegate.cli.channel import add_channel_arguments, call_method
from moegate.cli.commands.access.calling import TIMEOUT_S, print_json, run_with_stub
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.keys import audit_table
from moegate.v1 import admin_pb2

if TYPE_CHECKING:
    from moegate.cli.commands.access.calling import Stub
PAGE = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    add_channel_arguments(parser)
    parser.add_argument("--tenant", default="", help="only what concerns this one")
    parser.add_argument("--actor", default="", help="only by this key or person")
    parser.add_argument("--on", default="", help="only what was done to this key, tenant, ...")
    parser.add_argument("--most", type=int, default=100, metavar="N", help="events (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=partial(run_with_stub, _audit))


async def _audit(stub: Stub, args: argparse.Namespace) -> None:
    """Prints the events, newest first."""
    events: list[admin_pb2.AuditEvent] = []
    request = admin_pb2.ListAuditEventsRequest(tenant=args.tenant, actor=args.actor, target=args.on)
    while len(events) < args.most:
        request.page_size = min(PAGE, args.most - len(events))
        answer = await call_method(args, stub.ListAuditEvents, request, TIMEOUT_S)
        events += answer.events
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    if args.json:
        print_json(*events, name="events")
    else:
        table_console().print(audit_table(events))
