"""Items of an input that only name an item of an earlier response (`item_reference`).

Some clients send the turns of the assistant in this way unless they are told that nothing is
stored: the Vercel AI SDK does by default.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.domain.slices import Steps
from gateway.doors.http.errors import invalid
from gateway.doors.openai.responses.body import Item

REFERENCE = "item_reference"


class _Answer(msgspec.Struct, gc=False):
    """Of a stored response."""

    output: list[Item]


_decoder = msgspec.json.Decoder(_Answer)


def with_referenced(
    given: str | list[Item], answer_of: Callable[[str], bytes | None]
) -> Steps[tuple[str | list[Item], int]]:
    """Returns the input with the items that it names in their places, and the bytes of the answers
    that they are from. `answer_of`: JSON of a stored response, by the id of its request; None: it
    is not stored. Raises HttpError (INVALID) that names the item."""
    if isinstance(given, str) or all(item.type != REFERENCE for item in given):
        return given, 0
    size_bytes = 0
    stored: dict[str, dict[str | None, Item]] = {}
    items: list[Item] = []
    for i, item in enumerate(given):
        if item.type != REFERENCE:
            items.append(item)
            continue
        item_id = item.id or ""
        # See `output.py`: a prefix, the id of the request, and the place in its output.
        request_id = item_id.partition("_")[2].rpartition("_")[0]
        if request_id not in stored:
            output: list[Item] = []
            if (answer := answer_of(request_id)) is not None:
                output = _decoder.decode(answer).output
                size_bytes += len(answer)
            stored[request_id] = {each.id: each for each in output}
            yield
        # Each once, so that an input brings no more than what is stored.
        found = stored[request_id].pop(item_id, None)
        if found is None:
            text = f"item {item_id[:80]!r} is not stored here, or named before: send it itself"
            raise invalid(f"input[{i}]", text)
        items.append(found)
    return items, size_bytes
