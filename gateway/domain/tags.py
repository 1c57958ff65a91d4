"""Tags of a request for reports: labels that the caller chooses, and the end user it acts for.

Labels travel as the text of a JSON object with its keys in order, so that equal labels are equal
texts. All of it is written to the ledger as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.domain.request_bounds import MAX_ID_BYTES

MOST_LABELS = 8
MAX_VALUE_CHARS = 64
LABEL_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,31}\Z")
BATCH_LABEL = "batch"
"""Label of items of offline jobs: the id of their job."""
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


def labels_json(labels: Mapping[str, str]) -> str:
    """The labels as text; empty: there are none. Raises ValueError that names the label, the value
    and the fix."""
    if len(labels) > MOST_LABELS:
        raise ValueError(f"{len(labels)} labels: at most {MOST_LABELS}")
    for key, value in labels.items():
        if LABEL_KEY.match(key) is None:
            fix = 'give a small letter, then at most 31 small letters, digits or "_.-"'
            raise ValueError(f"{key[:40]!r} is no key: {fix}")
        if not (0 < len(value) <= MAX_VALUE_CHARS and value.isascii() and value.isprintable()):
            fix = f"give 1 to {MAX_VALUE_CHARS} printable characters of ASCII"
            raise ValueError(f"{key}: {value[:80]!r}: {fix}")
    return _encode(dict(labels)).decode() if labels else ""


def item_labels(job_id: str, of_job: str, of_item: Mapping[str, str]) -> str:
    """Labels of an item of an offline job, as text: `batch`, its job, and at most `MOST_LABELS`
    others, its own before those of the job. `of_job`: as text. Pairs that are no labels are left
    out."""
    labels: dict[str, str] = {}
    for key, value in (*of_item.items(), *decoded(of_job).items()):
        if len(labels) < MOST_LABELS and key not in labels and _is_label(key, value):
            labels[key] = value
    return _encode({**labels, BATCH_LABEL: job_id}).decode()


def decoded(labels_json: str) -> dict[str, str]:
    """The labels of a text."""
    return _decode(labels_json) if labels_json else {}


def _is_label(key: str, value: str) -> bool:
    try:
        return bool(labels_json({key: value}))
    except ValueError:
        return False


def is_end_user(text: str) -> bool:
    """Whether the text can name an end user in the ledger."""
    return 0 < len(text.encode(errors="replace")) <= MAX_ID_BYTES and text.isprintable()
