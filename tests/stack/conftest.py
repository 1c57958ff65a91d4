"""The servers of this suite, each started once. What cannot be installed fails: nothing skips."""

from collections.abc import Iterator

import pytest

from tests.stack.chart.helm import LAYERS, Helm, layer_helm, new_helm, old_helm
from tests.stack.ledger.postgres import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm 3.6."""
    return old_helm()


@pytest.fixture(scope="session", name="new_helm")
def _new_helm() -> Helm:
    """Helm 4."""
    return new_helm()


@pytest.fixture(scope="session")
def helms() -> list[Helm]:
    """All versions, from 3.6 on."""
    return [old_helm(), *map(layer_helm, LAYERS)]
