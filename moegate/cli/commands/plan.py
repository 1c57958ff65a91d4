"""`moegate plan MODEL --gpu TYPE ...`: replicas, cost and overflow for an expected load."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from moegate.cli.plan_arguments import declare, plan_input
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.pictures import NoMatplotlib
from moegate.cli.views.plan_plot import save_png
from moegate.cli.views.plan_report import as_json, tables
from simulation.planner.plan import CannotPlan, make_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    declare(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the plan too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if there is no plan or the figure cannot be written."""
    try:
        given = plan_input(args)
        plan = make_plan(given.demand, given.replica, given.slo, given.remotes)
        if args.png is not None:
            save_png(given, plan, args.png)
    except (CannotPlan, NoMatplotlib, OSError) as error:
        print(f"moegate plan: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(as_json(given, plan), indent=2))
    else:
        table_console().print(tables(given, plan))
    return 0
