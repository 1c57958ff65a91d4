"""What reports can be grouped by, as people type it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from moegate.v1 import usage_pb2

LABEL = "label:"
"""Begins the group of one label; its key follows."""
GROUPS = [
    name.removeprefix("SPEND_GROUP_").lower()
    for name in usage_pb2.SpendGroup.keys()[1:]
    if name != "SPEND_GROUP_LABEL"
]
TIMES = ("hour", "day", "week", "month", "year")


def parse_groups(text: str) -> list[str]:
    """Parses names with commas between them."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    labels = [name for name in names if name.startswith(LABEL)]
    unknown = [name for name in names if name not in GROUPS and name not in labels]
    if unknown or not names or len(set(names)) < len(names) or len(labels) > 1:
        known = ", ".join([*GROUPS, f"{LABEL}KEY"])
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or text}: of {known}")
    return names


def group_value(name: str) -> str:
    """The value of `SpendGroup` that a name stands for."""
    return "SPEND_GROUP_LABEL" if name.startswith(LABEL) else f"SPEND_GROUP_{name.upper()}"


def label_of(names: Iterable[str]) -> str:
    """The key of the label that the groups name; empty: they name none."""
    return next((name.removeprefix(LABEL) for name in names if name.startswith(LABEL)), "")
