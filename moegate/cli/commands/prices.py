"""`moegate prices`: shows and checks price catalogs, and drafts newer rows."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from gateway.accounting.prices.catalog import Prices
from gateway.accounting.prices.file import load_catalog, starter_catalog
from gateway.accounting.prices.importer import ImportUnavailable, as_yaml, differences, draft
from gateway.accounting.prices.row_time import unix_s
from gateway.config.price_rows import CatalogFile
from gateway.config.problems import ConfigError
from moegate.cli.views.fitted_table import table_console
from moegate.cli.views.price_table import price_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments and the function that runs the command."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="the rows of a catalog that hold at a time")
    _catalog_arguments(show)
    show.add_argument("--at", metavar="TIME", help="UTC, such as 2026-11-25T02:00Z (default: now)")
    show.add_argument("--all", action="store_true", help="rows of the past and future, too")
    show.set_defaults(run=_show)
    check = actions.add_parser("check", help="what is wrong with a catalog")
    check.add_argument("catalog", type=Path, help="the catalog, a YAML file")
    check.set_defaults(run=_check)
    drafts = actions.add_parser(
        "import", help="draft rows from the package genai-prices, and show what would change"
    )
    drafts.add_argument("--provider", required=True, help="as genai-prices names it")
    drafts.add_argument("--model", default="*", metavar="PATTERN", help="only models like glm-*")
    drafts.add_argument("--out", type=Path, help="write the draft there (default: standard output)")
    _catalog_arguments(drafts)
    drafts.set_defaults(run=_import)


def _catalog_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("catalog", type=Path, nargs="?", help="the catalog, a YAML file")
    parser.add_argument(
        "--starter", action="store_true", help="the public prices that come with moegate"
    )


def _catalogs(args: argparse.Namespace) -> list[CatalogFile]:
    chosen = [load_catalog(args.catalog)] if args.catalog else []
    if args.starter or not chosen:
        chosen.append(starter_catalog())
    return chosen


def _check(args: argparse.Namespace) -> int:
    try:
        catalog = load_catalog(args.catalog)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    counts = (len(catalog.gpu_hours), len(catalog.remote_tokens), len(catalog.showback))
    print("{}: {} GPU, {} remote and {} showback rows, no problem".format(args.catalog, *counts))
    return 0


def _show(args: argparse.Namespace) -> int:
    try:
        catalogs = _catalogs(args)
        at_s = _now_s() if args.at is None else float(unix_s(args.at))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except ValueError:
        print(f"--at {args.at}: write a UTC time such as 2026-11-25T02:00Z", file=sys.stderr)
        return 2
    table, has_batch_prices = price_table(catalogs, at_s, every_row=args.all)
    console = table_console()
    console.print("USD per million tokens; of GPUs, per hour")
    console.print(table)
    if has_batch_prices:
        console.print(
            "(batch): of offline jobs and requests of class batch; at a remote only where its "
            "batch_body_json asks for them, else to compare with."
        )
    return 0


def _import(args: argparse.Namespace) -> int:
    today = datetime.datetime.now(datetime.UTC).date()
    try:
        current = Prices(_catalogs(args))
        drafted = draft(args.provider, args.model, today)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except ImportUnavailable as error:
        print(error, file=sys.stderr)
        return 2
    head = (
        f"# Draft of {today} from the package genai-prices (MIT), which says that its prices may\n"
        "# be wrong: compare each row with its source, then move what is right to your catalog.\n"
    )
    text = head + as_yaml(drafted.catalog)
    if args.out:
        args.out.write_text(text)
    else:
        sys.stdout.write(text)
    print("input / cached / output, USD per million tokens:", file=sys.stderr)
    for line in differences(current, drafted.catalog, today):
        print(line, file=sys.stderr)
    for line in drafted.skipped:
        print(f"skipped {line}", file=sys.stderr)
    return 0


def _now_s() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()
