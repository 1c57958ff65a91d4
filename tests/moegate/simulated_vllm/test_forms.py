"""Texts that fit a regex, a grammar or a schema."""

from __future__ import annotations

import re
from typing import Any

import pytest

from moegate.simulated_vllm.forms.grammars import shortest_text
from moegate.simulated_vllm.forms.json_values import value_of
from moegate.simulated_vllm.forms.regexes import Unsupported, shortest_match


@pytest.mark.parametrize(
    "pattern",
    [
        "abc",
        "(ab|cde){3}",
        "a?b*c+",
        r"\d{4}-\d{2}-\d{2}",
        r"[A-Z][a-z]{2,5}!?",
        r"[^a-z ]+",
        r"(?:yes|no)(?P<why>, .*)?",
        r"[\w.]+@[\w.]+",
        "^a{2,}$",
        "x|",
        "[]a]b",
    ],
)
def test_a_regex_matches(pattern: str) -> None:
    assert re.fullmatch(pattern, shortest_match(pattern))


@pytest.mark.parametrize(
    "pattern", ["(a", "a)", "*a", "[a", r"(a)\1", "a(?=b)c", "a" + chr(92), "(a{9999}){9999}"]
)
def test_what_is_no_regex_or_is_not_simulated_is_refused(pattern: str) -> None:
    with pytest.raises(Unsupported):
        shortest_match(pattern)


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ('root ::= "yes" | "no"', "no"),
        ('root ::= "a" digit+ ("x" | "yy"){2}\ndigit ::= [0-9] # one', "a0xx"),
        ('root ::= value\nvalue ::= "(" value ")" | "#"', "#"),
        ('# first\nroot ::= "\\"" item* "\\n"\nitem ::= "b"', '"\n'),
        ('root ::= [^"]? "end"', "end"),
    ],
)
def test_a_grammar_has_its_shortest_text(grammar: str, text: str) -> None:
    assert shortest_text(grammar) == text


@pytest.mark.parametrize(
    "grammar",
    ['root ::= "a', "start: a", 'other ::= "a"', "root ::= missing", "root ::= root", "root ::= ("],
)
def test_what_is_no_grammar_is_refused(grammar: str) -> None:
    with pytest.raises(Unsupported):
        shortest_text(grammar)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 9}, 1),
        ({"type": "integer", "exclusiveMinimum": 4}, 5),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, 0.25),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "string", "minLength": 6}, "textxx"),
        ({"type": "string", "pattern": "^[0-9]{3}$"}, "000"),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 4}, 4),
        ({"type": ["boolean", "null"]}, True),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ({"type": "array", "items": {"const": 1}, "minItems": 2}, [1, 1]),
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/d"}, "b": {"type": "string"}},
                "required": ["a"],
                "$defs": {"d": {"type": "boolean"}},
            },
            {"a": True},
        ),
        (True, {}),
    ],
)
def test_a_value_fits_the_schema(schema: Any, value: Any) -> None:
    assert value_of(schema) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"$ref": "#/$defs/gone"},
        {"$ref": "#"},
        {"$ref": "https://example.com/a"},
        {"type": "integer", "minimum": 2, "maximum": 1},
    ],
)
def test_a_schema_without_a_value_is_refused(schema: Any) -> None:
    with pytest.raises(Unsupported):
        value_of(schema)
