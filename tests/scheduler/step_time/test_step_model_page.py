"""docs/step-model.md shows what the code computes."""

from __future__ import annotations

from benchmarks.engine.step_model import BEGIN, PAGE, sections, with_sections


def test_the_tables_are_those_of_the_code() -> None:
    page, parts = PAGE.read_text(), sections()
    assert all(BEGIN.format(name) in page for name in parts)
    assert with_sections(page, parts) == page, "run: python -m benchmarks.engine.step_model"
