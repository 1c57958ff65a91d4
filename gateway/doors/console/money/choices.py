"""What a reader may choose on pages of money: groups, and the names in their forms. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from gateway.doors.console.money.windows import PERIODS
from gateway.doors.console.problems import Problem
from moegate.v1 import usage_pb2

LABEL = "label:"
"""Begins the group of one label; its key follows."""
_LABEL = re.compile(r"label:[a-z0-9_.-]{1,64}\Z")
USES = ("tenant", "key", "model", "placement", "pool", "kind", "session", "end_user")
"""Groups that are no times."""
SHARING = {
    "none": usage_pb2.SHARING_RULE_UNSPECIFIED,
    "use": usage_pb2.SHARING_RULE_USE,
    "weight": usage_pb2.SHARING_RULE_WEIGHT,
    "row": usage_pb2.SHARING_RULE_ROW,
}
ORDERS = {
    "group": usage_pb2.SPEND_ORDER_UNSPECIFIED,
    "spend": usage_pb2.SPEND_ORDER_SPEND,
    "tokens": usage_pb2.SPEND_ORDER_TOKENS,
}


def groups_of(text: str, allowed: Collection[str], most: int) -> list[str]:
    """Returns the groups of a text such as "tenant,model". Raises Problem."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if name not in allowed and not _LABEL.match(name)]
    if LABEL not in allowed:
        wrong += [name for name in names if name.startswith(LABEL) and name not in wrong]
    labels = [name for name in names if name.startswith(LABEL)]
    if wrong or len(set(names)) < len(names) or len(names) > most or len(labels) > 1:
        known = ", ".join(name + ("KEY" if name == LABEL else "") for name in allowed)
        fix = f"{', '.join(wrong)[:100] or text[:100]}: give up to {most} of {known}, each once."
        raise Problem(400, "This is no group", fix)
    return names


def group_values(names: Sequence[str]) -> list[str]:
    """Returns the names of groups in the API."""
    return [
        "SPEND_GROUP_LABEL" if name.startswith(LABEL) else f"SPEND_GROUP_{name.upper()}"
        for name in names
    ]


def label_of(names: Sequence[str]) -> str:
    """Returns the key of the label that groups name; "": they name none."""
    return next((name.removeprefix(LABEL) for name in names if name.startswith(LABEL)), "")


def period_value(period: str) -> str:
    """Returns the name of a period of `PERIODS` in the API; "": none."""
    return group_values([period])[0] if period else "SPEND_GROUP_UNSPECIFIED"


def chosen(text: str, allowed: Collection[str], what: str) -> str:
    """Returns a text that is one of some. Raises Problem."""
    if text not in allowed:
        raise Problem(400, f"This is no {what}", f"{text[:60]}: give {', '.join(allowed)}.")
    return text


def weights_of(text: str) -> dict[str, int]:
    """Returns the weights of a text such as "search=3,ads=1". Raises Problem."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, weight = part.rpartition("=")
        if not equals or not weight.isdecimal() or len(weight) > 9:
            raise Problem(400, "This is no weight", f"{part[:60]}: such as search=3,ads=1.")
        found[name.strip()] = int(weight)
    return found


SPEND_GROUPS = (*USES, *PERIODS, LABEL)
