"""Inputs that are almost right: recorded ones with a few changes, in their structure and bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

# What parsers of JSON, protos and numbers trip over, beside ordinary values.
ODD_NUMBERS: tuple[int | float, ...] = (
    0, -1, 1, 2, 3, 127, 2**31, 2**32, -(2**31) - 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**30,
    10**4000, -(2**63), 0.5, 1.0, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    float("-inf"),
)  # fmt: skip
ODD_TEXTS = (
    "", "a", "stop", "length", "abort", "\0", "\r\n", "\ud800", "\udc00", "\U0001f980", "\u2028",
    "e\u0301", "\ufeff", "x" * 300, "null", "1", "-1", "[DONE]", '{"a": 1}',
)  # fmt: skip
NESTED_DEPTHS = (1, 40, 5000)


@dataclass(frozen=True, slots=True)
class Nested:
    """Lists in lists: one value, so that nothing here has to go down into it."""

    depth: int


def odd_values() -> st.SearchStrategy[Any]:
    """A JSON value of some wrong type or size."""
    scalars = st.sampled_from([None, True, False, *ODD_NUMBERS, *ODD_TEXTS])
    return st.one_of(
        scalars,
        st.text(max_size=8),
        st.integers(),
        st.lists(scalars, max_size=3),
        st.dictionaries(st.sampled_from(["index", "content", "text", "a"]), scalars, max_size=3),
        st.sampled_from(NESTED_DEPTHS).map(Nested),
    )


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value, the value itself first."""
    yield at
    match value:
        case dict():
            for name, item in value.items():
                yield from paths(item, (*at, name))
        case list():
            for i, item in enumerate(value):
                yield from paths(item, (*at, i))


@st.composite
def changed(draw: st.DrawFn, value: Any, most_changes: int = 3) -> Any:
    """A JSON value with places removed, replaced, doubled, renamed or put in another order."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most_changes))):
        places = [path for path in paths(value) if path]
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        at: Any = value
        for part in parents:
            at = at[part]
        change = draw(st.sampled_from(["replace", "replace", "remove", "double", "move", "rename"]))
        if change == "replace":
            at[last] = draw(odd_values())
        elif change == "remove":
            del at[last]
        elif isinstance(at, list):
            i = int(last)
            item = copy.deepcopy(at[i]) if change == "double" else at.pop(i)
            at.insert(draw(st.integers(0, len(at))), item)
        elif change == "double":
            at[f"{last}_"] = copy.deepcopy(at[last])
        elif change == "move":
            at[last] = at.pop(last)
        else:
            at[draw(st.sampled_from([*ODD_TEXTS, *sorted(at)]))] = at.pop(last)
    return value


def dumped(value: Any) -> bytes:
    """JSON as bytes: whatever Python would write, NaN and lone surrogates included."""
    match value:
        case dict():
            items = (
                json.dumps(name).encode() + b":" + dumped(item) for name, item in value.items()
            )
            return b"{" + b",".join(items) + b"}"
        case list():
            return b"[" + b",".join(map(dumped, value)) + b"]"
        case Nested(depth=depth):
            return b"[" * depth + b"]" * depth
        case _:
            return json.dumps(value).encode()


@st.composite
def scratched(draw: st.DrawFn, data: bytes, words: tuple[bytes, ...]) -> bytes:
    """Bytes with a few places cut out, overwritten, doubled or cut off."""
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from([b"", data[start:end] * 2, *words]) | st.binary(max_size=6))
        data = data[:start] + piece + data[end:]
    if draw(st.booleans()) and draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    return data


@st.composite
def lines_changed(draw: st.DrawFn, text: bytes, words: tuple[bytes, ...]) -> bytes:
    """Text with lines removed, doubled, swapped or indented, and words of them replaced."""
    lines = text.split(b"\n")
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["word", "word", "word", "remove", "double", "swap", "indent"])):
            case "word":
                # The last word of a line is its value, in metrics and in YAML.
                pieces = lines[i].split(b" ")
                j = draw(st.sampled_from([len(pieces) - 1, 0, len(pieces) // 2]))
                pieces[j] = draw(st.sampled_from(words))
                lines[i] = b" ".join(pieces)
            case "remove" if len(lines) > 1:
                del lines[i]
            case "double":
                lines.insert(i, lines[i])
            case "swap":
                j = draw(st.integers(0, len(lines) - 1))
                lines[i], lines[j] = lines[j], lines[i]
            case _:
                lines[i] = b" " * draw(st.integers(1, 4)) + lines[i]
    return draw(scratched(b"\n".join(lines), words))


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces, empty ones among them."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
