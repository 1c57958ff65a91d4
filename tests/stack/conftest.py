"""The servers of this suite, each started once. What cannot be installed fails: nothing skips."""

from collections.abc import Iterator

import pytest

from tests.stack.postgres import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL."""
    with running_postgres() as server:
        yield server
