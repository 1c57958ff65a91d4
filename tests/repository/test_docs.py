"""What the documents name exists: links, files, modules and make targets, terms of the glossary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / name for name in ("examples/README.md", "helm/moegate/README.md")),
]
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
QUOTED = re.compile(r"`([^`\n]+)`")
SUFFIXES = (".py", ".md", ".yaml", ".proto", ".sh")
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()}


def broken_links(text: str, folder: Path) -> Iterator[str]:
    for target, _ in LINK.findall(text):
        inside = "://" not in target and not target.startswith("mailto:")
        if inside and not (folder / target).exists():
            yield target


def missing_files(text: str) -> Iterator[str]:
    """Files in backticks that begin with a folder of the repository."""
    for quoted in QUOTED.findall(text):
        top, slash, _ = quoted.partition("/")
        a_file = slash and top in FOLDERS and quoted.endswith(SUFFIXES)
        if a_file and not list(ROOT.glob(quoted)):
            yield quoted


def unknown_commands(text: str) -> Iterator[str]:
    """Modules after `python -m` and targets after `make` that the repository does not have."""
    for module in re.findall(r"python -m ((?:benchmarks|helm|tests)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
            yield module
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    yield from sorted(named - targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_files_and_commands_exist(page: Path) -> None:
    text = page.read_text()
    assert [*broken_links(text, page.parent)] == []
    assert [*missing_files(text)] == []
    assert [*unknown_commands(text)] == []


def test_what_is_missing_is_found() -> None:
    text = "[a](README.md) [b](nowhere.md) [c](https://d) `scheduler/core.py` `scheduler/no.py`"
    assert [*broken_links(text, ROOT)] == ["nowhere.md"]
    assert [*missing_files(text)] == ["scheduler/no.py"]
    text = "`make demo` `make tea` `python -m helm.generate` `python -m benchmarks.tea --hot`"
    assert [*unknown_commands(text)] == ["benchmarks.tea", "tea"]


def unknown_names(text: str, source: str) -> Iterator[str]:
    """Identifiers in backticks that no source file has."""
    for quoted in QUOTED.findall(text):
        for name in re.findall(r"[A-Za-z_]\w+", quoted.partition("/")[0]):
            if re.search(rf"\b{name}\b", source) is None:
                yield quoted


def test_names_in_the_glossary_are_in_the_code() -> None:
    folders = ("gateway", "scheduler", "simulation", "moegate")
    source = "\n".join(p.read_text() for name in folders for p in (ROOT / name).rglob("*.py"))
    glossary = (ROOT / "docs/GLOSSARY.md").read_text()
    assert [*unknown_names(glossary, source)] == []
    assert [*unknown_names("`Scheduler` `Lane`", source)] == ["Lane"]


def test_a_term_stands_once_in_the_glossary() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs/GLOSSARY.md").read_text(), re.MULTILINE)
    terms = [row for row in rows if row != "term"]
    assert len(terms) > 50
    assert len(terms) == len(set(terms))
