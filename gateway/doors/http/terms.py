"""Terms of service of a request, from its headers: those of moegate and those that clients send by
themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.config.money import nano_usd
from gateway.domain.hops import HOPS_METADATA, MAX_HOPS, MAX_HTTP_HOPS
from gateway.domain.request_bounds import MAX_ID_BYTES, MAX_NANO_USD, REQUEST_ID
from gateway.domain.tags import is_end_user, labels_json
from gateway.doors.http.errors import HttpError, invalid
from scheduler.contract import SloClass

PREFIX = "x-moegate-"
SESSION_HEADERS = (
    "x-moegate-session-id",
    "x-claude-code-session-id",
    "session-id",
    "session_id",
    "x-session-id",
    "x-session-affinity",
)
"""Headers that name the conversation, the first one counts: moegate's own, Claude Code, Codex (new
and old), OpenCode."""
LONGEST_S = 86_400.0
MOST_PRIORITY = 10
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s)?\Z")
_USD = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?\Z")
_CLASS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Terms of service; the fields are those of `GenerateCall`. `request_id`: empty if the client
    chose none."""

    request_id: str = ""
    remaining_s: float | None = None
    slo_class: SloClass | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    priority: int = 0
    local_only: bool = False
    remote_classes: frozenset[str] = frozenset()
    session_id: str = ""
    idempotency_key: str = ""
    max_cost_nano_usd: int | None = None
    end_user: str = ""
    labels_json: str = ""
    hops: int = 0


def terms_of(headers: Mapping[str, str]) -> Terms:
    """Reads the headers. `headers`: names in any case. Raises HttpError (INVALID) that names the
    header, the value and the fix."""
    given = _given(headers)
    priority = 0
    if (text := given.get("priority")) is not None:
        if not re.fullmatch(r"-?[0-9]{1,2}", text) or abs(int(text)) > MOST_PRIORITY:
            raise _fault("priority", text, f"give {-MOST_PRIORITY} to {MOST_PRIORITY}")
        priority = int(text)
    slo_class = None
    if (text := given.get("class")) is not None:
        try:
            slo_class = SloClass(text.lower())
        except ValueError:
            classes = ", ".join(each.value for each in SloClass)
            raise _fault("class", text, f"give one of {classes}") from None
    local_only, remote_classes = _data_policy(given.get("data-policy"))
    request_id = given.get("request-id", "")
    if request_id and REQUEST_ID.match(request_id) is None:
        raise _fault("request-id", request_id, 'give at most 128 letters, digits or "._:-"')
    idempotency_key = _idempotency_key(headers.get("idempotency-key", ""))
    return Terms(
        request_id=request_id,
        remaining_s=_seconds("deadline", given),
        slo_class=slo_class,
        ttft_s=_seconds("slo-ttft", given),
        tpot_s=_seconds("slo-tpot", given),
        priority=priority,
        local_only=local_only,
        remote_classes=remote_classes,
        session_id=session_of(headers),
        idempotency_key=idempotency_key,
        max_cost_nano_usd=_max_cost(given.get("max-cost")),
        end_user=_end_user(given.get("end-user", "")),
        labels_json=_labels(given.get("labels", "")),
        hops=_hops(headers.get(HOPS_METADATA)),
    )


_OWN = (
    *("request-id", "deadline", "class", "slo-ttft", "slo-tpot", "priority"),
    *("data-policy", "max-cost", "labels", "end-user"),
)


_KNOWN = (*_OWN, "session-id", "placement", "reason", "cost-usd")
"""Those, one that is read with others, and those of answers, which a client may send back."""


def _given(headers: Mapping[str, str]) -> dict[str, str]:
    """moegate's own headers that are given, without their prefix. Raises HttpError (INVALID) for
    one that is unknown, since a slip in the name of a policy would lift it, and for one that is
    given twice with different values, of which a proxy may have added the stricter one."""
    given: dict[str, str] = {}
    for name, text in headers.items():
        if len(name) <= len(PREFIX) or name[: len(PREFIX)].lower() != PREFIX:
            continue
        own, value = name[len(PREFIX) :].lower(), text.strip()
        if own not in _KNOWN:
            known = ", ".join((*_OWN, "session-id"))
            raise invalid(name.lower()[:80], f"no header of this gateway: {PREFIX} has {known}")
        if given.setdefault(own, value) != value:
            raise _fault(own, value, f"it is {given[own][:80]!r}, too: give it once")
    return given


def session_of(headers: Mapping[str, str]) -> str:
    """The conversation that the headers name; empty: none. A name that cannot be kept is none:
    most clients do not know that they send one."""
    for name in SESSION_HEADERS:
        if (found := headers.get(name)) and is_session_id(found):
            return found
    return ""


def is_session_id(text: str) -> bool:
    """Whether the text can name a conversation in the ledger."""
    return 0 < len(text) <= MAX_ID_BYTES and text.isascii() and text.isprintable()


def _idempotency_key(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise invalid("idempotency-key", "it is no UTF-8: send it in that encoding") from None
    if size > MAX_ID_BYTES:
        raise invalid("idempotency-key", f"{size} bytes: at most {MAX_ID_BYTES}")
    return text


def _end_user(text: str) -> str:
    if text and not is_end_user(text):
        raise _fault("end-user", text, f"give at most {MAX_ID_BYTES} bytes, all printable")
    return text


def _labels(text: str) -> str:
    """`key=value` with commas between them."""
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    labels = {key.strip(): value.strip() for key, _, value in pairs}
    if len(labels) < len(pairs):
        raise _fault("labels", text, "give each key once, such as team=search,app=chat")
    try:
        return labels_json(labels)
    except ValueError as error:
        raise invalid(f"{PREFIX}labels", str(error)) from None


def _hops(text: str | None) -> int:
    """Number of gateways that the request came through. Raises HttpError (INVALID) for too many: a
    gateway that calls itself would go on for ever."""
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 2):
        raise invalid(HOPS_METADATA, f"{text[:40]!r}: give 0 to {MAX_HOPS}, or leave it out")
    if int(text) > MAX_HTTP_HOPS:
        fault = f"it came through {text} gateways, at most {MAX_HTTP_HOPS} may be"
        raise invalid(HOPS_METADATA, f"{fault}: does a gateway name itself as a server?")
    return int(text)


def _seconds(name: str, given: Mapping[str, str]) -> float | None:
    text = given.get(name)
    if text is None:
        return None
    found = _DURATION.match(text)
    seconds = 0.0
    if found is not None:
        seconds = float(found[1]) / (1000.0 if found[2] == "ms" else 1.0)
    if not 0.0 < seconds <= LONGEST_S:
        raise _fault(name, text, "give a time above 0 such as 500ms or 2.5s")
    return seconds


def _data_policy(text: str | None) -> tuple[bool, frozenset[str]]:
    """Returns whether only self-hosted servers may see the request, and the classes of remotes that
    may."""
    if text is None:
        return False, frozenset()
    if text.lower() == "local-only":
        return True, frozenset()
    classes = [each.strip() for each in text.split(",")]
    if not all(_CLASS.match(each) for each in classes):
        raise _fault("data-policy", text, "give local-only, or classes of remotes such as eu,us")
    return False, frozenset(classes)


def _max_cost(text: str | None) -> int | None:
    if text is None:
        return None
    if _USD.match(text) is None or not 0 < (cost := nano_usd(text)) < MAX_NANO_USD:
        raise _fault("max-cost", text, "give US dollars above 0 such as 0.05")
    return cost


def _fault(name: str, value: str, fix: str) -> HttpError:
    return invalid(PREFIX + name, f"{value[:80]!r}: {fix}")
