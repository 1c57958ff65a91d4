"""What reports can be grouped by, as people type it."""

from __future__ import annotations

import argparse

from moegate.v1 import usage_pb2

GROUPS = [name.removeprefix("SPEND_GROUP_").lower() for name in usage_pb2.SpendGroup.keys()[1:]]
TIMES = ("hour", "day", "week", "month", "year")


def parse_groups(text: str) -> list[str]:
    """Parses names with commas between them."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in GROUPS]
    if unknown or not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or text}: of {', '.join(GROUPS)}")
    return names


def group_value(name: str) -> str:
    """The value of `SpendGroup` that a name stands for."""
    return f"SPEND_GROUP_{name.upper()}"
