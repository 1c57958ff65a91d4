"""A shortest text of a grammar in GBNF, the EBNF that vLLM's default backend takes."""

from __future__ import annotations

import re
from collections.abc import Collection

from moegate.simulated_vllm.forms.regexes import Unsupported, repeated, shortest_match

_RULE = re.compile(r"^[ \t]*([A-Za-z_][\w-]*)[ \t]*::=", re.MULTILINE)
_COMMENT = re.compile(r"""("(?:\\.|[^"\\\n])*"|\[(?:\\.|[^\]\\])+\])|#[^\n]*""")
"""A comment, or a text in which a # is none."""
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:\\.|[^"\\\n])*")|(?P<set>\[(?:\\.|[^\]\\])+\])|(?P<name>[A-Za-z_][\w-]*)"""
    r"""|(?P<repeat>[*+?]|\{\d+(?:,\d*)?\})|(?P<mark>[()|]))"""
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

Tokens = list[tuple[str, str]]
"""Kind and source of each token of a rule."""


def shortest_text(grammar: str) -> str:
    """Returns a text of the rule `root`. Raises Unsupported."""
    rules = _rules(grammar)
    if "root" not in rules:
        raise Unsupported("no rule root")
    known: dict[str, str] = {}
    for _ in rules:
        for name, tokens in rules.items():
            text = _Evaluation(tokens, rules.keys(), known).text()
            if text is not None and (name not in known or len(text) < len(known[name])):
                known[name] = text
    if "root" not in known:
        raise Unsupported("the rule root never ends")
    return known["root"]


def _rules(grammar: str) -> dict[str, Tokens]:
    source = _COMMENT.sub(r"\1", grammar)
    heads = list(_RULE.finditer(source))
    if not heads or source[: heads[0].start()].strip():
        raise Unsupported("expected a rule: name ::= ...")
    ends = [head.start() for head in heads[1:]] + [len(source)]
    return {
        head[1]: _tokens(source[head.end() : end]) for head, end in zip(heads, ends, strict=True)
    }


def _tokens(source: str) -> Tokens:
    tokens: Tokens = []
    source = source.strip()
    position = 0
    while position < len(source):
        found = _TOKEN.match(source, position)
        if found is None or found.lastgroup is None:
            raise Unsupported(f"unexpected {source[position : position + 10]!r}")
        tokens.append((found.lastgroup, found[found.lastgroup]))
        position = found.end()
    return tokens


class _Evaluation:
    """A shortest text of one rule, by the texts of rules that are known so far."""

    def __init__(self, tokens: Tokens, names: Collection[str], known: dict[str, str]) -> None:
        self._tokens = tokens
        self._names = names
        self._known = known
        self._position = 0

    def text(self) -> str | None:
        """None: not known yet."""
        text = self._alternatives()
        if self._position < len(self._tokens):
            raise Unsupported("unbalanced )")
        return text

    def _alternatives(self) -> str | None:
        texts = [self._sequence()]
        while self._peek() == ("mark", "|"):
            self._position += 1
            texts.append(self._sequence())
        return min((text for text in texts if text is not None), key=len, default=None)

    def _sequence(self) -> str | None:
        parts: list[str] = []
        is_known = True
        while self._peek() not in (("", ""), ("mark", "|"), ("mark", ")")):
            text = self._atom()
            least = self._least()
            if least and text is None:
                is_known = False
            parts.append(repeated(text or "", least))
        return "".join(parts) if is_known else None

    def _atom(self) -> str | None:
        kind, source = self._peek()
        self._position += 1
        match kind:
            case "text":
                return re.sub(
                    r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), source[1:-1]
                )
            case "set":
                return shortest_match(source)
            case "name":
                if source not in self._known and source not in self._names:
                    raise Unsupported(f"no rule {source}")
                return self._known.get(source)
            case "mark" if source == "(":
                text = self._alternatives()
                if self._peek() != ("mark", ")"):
                    raise Unsupported("missing )")
                self._position += 1
                return text
            case _:
                raise Unsupported(f"unexpected {source!r}")

    def _least(self) -> int:
        kind, source = self._peek()
        if kind != "repeat":
            return 1
        self._position += 1
        if source.startswith("{"):
            return int(source[1:-1].partition(",")[0])
        return 1 if source == "+" else 0

    def _peek(self) -> tuple[str, str]:
        if self._position < len(self._tokens):
            return self._tokens[self._position]
        return "", ""
