"""Reads the configuration file: bytes -> YAML -> shape -> checks between fields.

Each step runs only if the one before it found no problem, and reports all problems that it finds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from gateway.config.gateway import GatewayConfig
from gateway.config.load.check import semantic_problems
from gateway.config.problems import ConfigError, Problem
from gateway.config.syntax.shape import shape_problems
from gateway.config.syntax.yaml import Document, read_file, read_yaml

__all__ = ["ConfigError", "Problem", "load", "parse"]


def load(path: Path) -> GatewayConfig:
    """The configuration in a file; its secrets are read as a check, not kept. Raises
    ConfigError."""
    text = read_file(path, "name a readable YAML file")
    return parse(text, str(path), path.parent)


def parse(text: bytes | str, source: str, base_dir: Path) -> GatewayConfig:
    """`source`: name of the text in errors; `base_dir`: folder of secret files.

    Raises ConfigError with every problem of the first step that fails.
    """
    document = read_yaml(text, source)
    if problems := shape_problems(document):
        raise _error(source, document, problems)
    config = msgspec.convert(document.data, GatewayConfig)
    if problems := list(semantic_problems(config, base_dir)):
        raise _error(source, document, problems)
    return config


def _error(source: str, document: Document, problems: list[Problem]) -> ConfigError:
    """Adds the lines; a field that is not in the file gets none."""
    return ConfigError(
        source,
        [
            replace(problem, line=document.written[problem.path].line)
            if problem.line is None and problem.path in document.written
            else problem
            for problem in problems
        ],
    )
