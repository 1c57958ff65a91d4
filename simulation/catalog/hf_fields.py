"""Fields of a config.json, read with errors that name them."""

from __future__ import annotations

from collections.abc import Mapping


class UnreadableConfig(ValueError):
    """A config.json lacks a needed field; the text names the field and the fix."""


class Config:
    """One level of a config.json."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def get(self, name: str, default: object = None) -> object:
        """Returns the value unchanged."""
        return self._fields.get(name, default)

    def part(self, name: str) -> Config | None:
        """A nested level, if there is one."""
        value = self._fields.get(name)
        return Config(value) if isinstance(value, Mapping) else None

    def optional(self, *names: str) -> int | None:
        """The first of these that is a number; None when all are absent or null."""
        for name in names:
            value = self._fields.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UnreadableConfig(f"{name}: {value!r} is not a number")
            if value < 0 or value != int(value):
                raise UnreadableConfig(f"{name}: {value!r} is not a count")
            return int(value)
        return None

    def count(self, *names: str) -> int:
        """The first of these that is there; it must be above 0. Raises UnreadableConfig."""
        value = self.optional(*names)
        if value is None:
            raise UnreadableConfig(
                f"{' or '.join(names)}: absent. Is this the config.json of a language model?"
            )
        if value == 0:
            raise UnreadableConfig(f"{' or '.join(names)}: 0 is not a count of at least 1")
        return value
