"""Inputs that are one text or several, or token ids: of Completions and Embeddings."""

from __future__ import annotations

import msgspec

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.request_bounds import MAX_TOKEN_ID
from gateway.doors.http.elements import too_many
from gateway.doors.http.errors import HttpError, invalid

_TEXTS = msgspec.json.Decoder(list[str])
_IDS = msgspec.json.Decoder(list[int])
_ID_LISTS = msgspec.json.Decoder(list[list[int]])

Inputs = tuple[str, ...] | tuple[tuple[int, ...], ...]


def inputs_of(raw: msgspec.Raw, field: str, elements: ElementLimitsConfig) -> Inputs:
    """The inputs, all of them texts or all of them token ids, none empty. Raises HttpError
    (INVALID)."""
    text = bytes(raw).strip()
    inside = text[1:].lstrip()[:1]
    found: Inputs
    try:
        if text[:1] == b'"':
            found = (msgspec.json.decode(text, type=str),)
        elif text[:1] != b"[" or inside == b"]":
            raise _wrong(field)
        elif inside == b'"':
            found = tuple(_TEXTS.decode(text))
        elif inside == b"[":
            found = tuple(map(tuple, _ID_LISTS.decode(text)))
        else:
            found = (tuple(_IDS.decode(text)),)
    except msgspec.MsgspecError:
        raise _wrong(field) from None
    _check(found, field, elements)
    return found


def _check(found: Inputs, field: str, elements: ElementLimitsConfig) -> None:
    if len(found) > elements.inputs:
        raise too_many("inputs", elements.inputs)
    if not all(found):
        raise invalid(field, "an input is empty: give some text or tokens")
    texts = sum(len(each) for each in found if isinstance(each, str))
    if texts > elements.text_bytes:
        raise too_many("text_bytes", elements.text_bytes)
    lists = [each for each in found if not isinstance(each, str)]
    if sum(map(len, lists)) > elements.token_ids:
        raise too_many("token_ids", elements.token_ids)
    if any(not 0 <= min(each) <= max(each) <= MAX_TOKEN_ID for each in lists):
        raise invalid(field, f"token ids are 0 to {MAX_TOKEN_ID}")


def _wrong(field: str) -> HttpError:
    return invalid(field, "give a text, a list of texts, or lists of token ids")
