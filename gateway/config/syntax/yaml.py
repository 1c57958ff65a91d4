"""Parses a YAML file into plain data, with the line of each value.

The data is what JSON could hold: mappings with text keys, lists, text, numbers, booleans, null.
Duplicate keys, aliases, tags, deep nesting and large files are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.config.problems import ConfigError, Problem, field_path, shown

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
"""Deepest nesting; the configuration itself has 6 levels."""
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How a value is written: its line from 1, the text of a scalar, and whether it has no
    quotes."""

    line: int
    text: str | None = None
    plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The data of a file, and how the value at each path is written."""

    data: Any
    written: dict[str, Written]


def read_file(path: Path, fix: str) -> bytes:
    """The bytes of a file, cut after what `read_yaml` accepts. Raises ConfigError with `fix`."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        problem = Problem(
            path="", value=str(path), message=f"cannot be read: {error.strerror}", fix=fix
        )
        raise ConfigError(str(path), [problem]) from None


def read_yaml(text: bytes | str, source: str) -> Document:
    """Raises ConfigError."""
    node = _composed(_decoded(text, source), source)
    builder = _Builder()
    data = builder.build("", node)
    if builder.problems:
        raise ConfigError(source, builder.problems)
    return Document(data=data, written=builder.written)


class _Refused(yaml.YAMLError):
    """The YAML is well-formed, but not accepted."""

    def __init__(self, line: int, value: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.problem = Problem(path="", value=value, message=message, fix=fix, line=line)


class _Composer(yaml.SafeLoader):
    """Composes nodes; refuses what would make a small file large in memory or the stack deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            # Aliases of aliases grow without bound, and hidden copies mislead readers.
            raise _Refused(line, f"*{event.anchor}", "aliases are not taken", "write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(
                line,
                f"more than {MAX_DEPTH} levels",
                "the file is nested too deep",
                "see examples/moegate.yaml for the shape",
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _decoded(text: bytes | str, source: str) -> str:
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(raw) > MAX_BYTES:
        raise _error(source, "more than 1 MiB", "the file is too large", "keep it below 1 MiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error(
            source,
            f"byte 0x{raw[error.start]:02x}",
            "the file is not UTF-8",
            "save it as UTF-8",
            raw.count(b"\n", 0, error.start) + 1,
        ) from None


def _composed(text: str, source: str) -> yaml.Node:
    try:
        loader = _Composer(text)
        node = loader.get_single_node()
    except _Refused as refused:
        raise ConfigError(source, [refused.problem]) from None
    except yaml.reader.ReaderError as error:
        raise _error(
            source,
            f"character U+{ord(text[error.position]):04X}",
            "a character that YAML does not allow",
            "remove it",
            text.count("\n", 0, error.position) + 1,
        ) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, source) from None
    if node is None:
        fix = "start from examples/moegate.yaml; `moegate check --schema` describes every field"
        raise _error(source, "nothing", "the file is empty", fix)
    return node


def _syntax_error(error: yaml.MarkedYAMLError, text: str, source: str) -> ConfigError:
    """The error without the text of its line, which may hold a secret."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    column = mark.column + 1 if mark else 1
    lines = text.splitlines()
    if line and line <= len(lines) and "\t" in lines[line - 1][:column]:
        return _error(
            source, "a tab", "tabs cannot indent in YAML", "put spaces in place of tabs", line
        )
    context = f"{error.context}: " if error.context else ""
    return _error(
        source,
        f"column {column}",
        f"not YAML: {context}{error.problem}",
        "mend the syntax there: indentation, quotes, brackets, a space after each colon",
        line,
    )


def _error(source: str, value: str, message: str, fix: str, line: int | None = None) -> ConfigError:
    return ConfigError(source, [Problem(path="", value=value, message=message, fix=fix, line=line)])


class _Builder:
    """Converts nodes to data; collects problems and lines."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.written: dict[str, Written] = {}
        self._scalars = yaml.constructor.SafeConstructor()

    def build(self, path: str, node: yaml.Node) -> Any:
        line = node.start_mark.line + 1
        kind = str(node.tag).removeprefix(_TAG)
        match node:
            case yaml.MappingNode() if kind == "map":
                self.written[path] = Written(line=line)
                return self._mapping(path, node)
            case yaml.SequenceNode() if kind == "seq":
                self.written[path] = Written(line=line)
                return [self.build(f"{path}[{i}]", item) for i, item in enumerate(node.value)]
            case yaml.ScalarNode():
                self.written[path] = Written(line=line, text=node.value, plain=node.style is None)
                return self._scalar(path, node, kind)
        self._refuse(path, kind, line)
        return None

    def _mapping(self, path: str, node: yaml.MappingNode) -> dict[str, Any]:
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._add(path, "a list or mapping", "a key must be text", "write a name", line)
                continue
            # As written, so that on, yes and 1 stay what they look like.
            name = str(key.value)
            child = field_path(path, name)
            if name in lines:
                message = f"the key stands twice, in lines {lines[name]} and {line}"
                self._add(child, shown("", name), message, "remove one of the two", line)
                continue
            lines[name] = line
            data[name] = self.build(child, value)
        return data

    def _scalar(self, path: str, node: yaml.ScalarNode, kind: str) -> Any:
        text = str(node.value)
        try:
            match kind:
                case "str" | "timestamp":  # no field is a date: a date is a name
                    return text
                case "null":
                    return None
                case "bool":
                    return bool(self._scalars.construct_yaml_bool(node))
                case "int":
                    return int(self._scalars.construct_yaml_int(node))
                case "float":
                    return float(self._scalars.construct_yaml_float(node))
        except (ValueError, KeyError):  # 0x_, !!int x, !!bool 3, more than 4,300 digits
            pass
        self._refuse(path, kind, node.start_mark.line + 1)
        return None

    def _refuse(self, path: str, kind: str, line: int) -> None:
        message = f"{kind} is not a kind of value that is taken"
        self._add(path, shown("", kind), message, "write plain YAML, without tags", line)

    def _add(self, path: str, value: str, message: str, fix: str, line: int) -> None:
        self.problems.append(Problem(path=path, value=value, message=message, fix=fix, line=line))
