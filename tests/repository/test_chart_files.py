"""The chart's generated files are those of now, and its examples fit the schema; without Helm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.config.syntax.schema import json_schema
from helm import generate

STALE = "stale: run `make chart`"
EXAMPLES = sorted((generate.CHART / "examples").glob("*.yaml"))


def written() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((generate.CHART / "values.schema.json").read_text())
    return schema


def test_the_schema_is_that_of_the_gateways_types() -> None:
    assert written() == generate.schema(), STALE
    assert written()["properties"]["config"] == {"$ref": "#/$defs/GatewayConfig"}
    assert written()["$defs"].keys() - {"VllmServers"} == json_schema()["$defs"].keys(), STALE


def test_the_readme_has_the_table_of_now() -> None:
    assert (generate.CHART / "README.md").read_text() == generate.readme(), STALE


def test_every_value_is_described_and_every_rule_has_a_value() -> None:
    described = generate.described()
    for path, _ in generate.leaves(generate.values()):
        parents = [path.rsplit(".", n)[0] for n in range(path.count(".") + 1)]
        assert any(parent in described for parent in parents), path
    assert set(generate.RULES) <= set(described)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_fit_the_schema(example: Path) -> None:
    jsonschema.validate(yaml.safe_load(example.read_text()), written())
    jsonschema.validate(generate.values(), written())


def test_the_readme_lists_the_examples() -> None:
    listed = re.findall(
        r"\]\(examples/([a-z0-9-]+)\.yaml\)", (generate.CHART / "README.md").read_text()
    )
    assert sorted(listed) == [path.stem for path in EXAMPLES]


def test_the_charts_version_is_the_packages() -> None:
    chart = yaml.safe_load((generate.CHART / "Chart.yaml").read_text())
    pyproject = Path("pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in pyproject
