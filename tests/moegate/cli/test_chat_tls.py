"""`moegate chat` over TLS: what is wrong with the flags is told; tests/stack calls a gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from moegate.cli.main import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ca=ca.pem"], "give --tls too"),
        (["--tls", "--cert=c.pem"], "--cert and --cert-key go together"),
        (["--tls", "--ca=missing.pem"], "missing.pem cannot be read: No such file"),
    ],
)
def test_flags_that_cannot_work_are_told(
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["chat", *flags, "hello"]) == 1
    assert message in capsys.readouterr().err
