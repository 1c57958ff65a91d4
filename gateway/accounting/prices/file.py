"""Reads a price catalog: bytes -> YAML -> shape -> sanity checks. Errors have the form of those of
the configuration file: path, value, what is wrong, fix, line."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import msgspec

from gateway.accounting.prices.sanity_checks import sanity_problems
from gateway.config.price_rows import CatalogFile
from gateway.config.problems import ConfigError
from gateway.config.syntax.shape import shape_problems
from gateway.config.syntax.yaml import read_file, read_yaml


def load_catalog(path: Path) -> CatalogFile:
    """Reads a catalog file. Raises ConfigError with all problems of the first step that fails."""
    text = read_file(path, "name a readable YAML file, or use the starter catalog: starter: true")
    return parse_catalog(text, str(path))


def starter_catalog() -> CatalogFile:
    """The public prices that come with the package: dated, with sources, some of them outdated."""
    return parse_catalog(starter_text(), "the starter catalog")


def starter_text() -> bytes:
    """The text of the starter catalog."""
    return (files("gateway.accounting") / "starter_prices.yaml").read_bytes()


def parse_catalog(text: bytes | str, source: str) -> CatalogFile:
    """Parses and checks a catalog. `source` names the text in errors. Raises ConfigError."""
    document = read_yaml(text, source)
    problems = shape_problems(document, CatalogFile)
    if not problems:
        catalog = msgspec.convert(document.data, CatalogFile)
        problems = list(sanity_problems(catalog))
        if not problems:
            return catalog
    lines = document.written
    raise ConfigError(
        source,
        [
            replace(problem, line=lines[problem.path].line)
            if problem.line is None and problem.path in lines
            else problem
            for problem in problems
        ],
    )
