"""The bound on connections fits into the limit on open files."""

from __future__ import annotations

import logging
import resource

import pytest

from gateway.doors.entry.open_files import OTHER_FILES, connections_that_fit

INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "fitting", "raised"),
    [
        (1024, 100_000, 4096, 4096, 4096 + OTHER_FILES),
        (1024, INFINITY, 4096, 4096, 4096 + OTHER_FILES),
        (INFINITY, INFINITY, 4096, 4096, None),
        (100_000, 100_000, 4096, 4096, None),
        (1024, 4096, 4096, 4096 - OTHER_FILES, 4096),
        (512, 1024, 4096, 512, 1024),
        (256, 256, 4096, 128, 256),
        (256, 256, 5, 5, 256),
    ],
)
def test_the_soft_limit_is_raised_and_connections_fit(
    soft: int,
    hard: int,
    wanted: int,
    fitting: int,
    raised: int | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    caplog.set_level(logging.WARNING)
    assert connections_that_fit(wanted) == fitting
    assert limits == ([] if raised is None else [(raised, hard)])
    assert bool(caplog.records) == (fitting < wanted)
