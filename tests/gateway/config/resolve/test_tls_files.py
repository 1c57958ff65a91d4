"""TLS files that the configuration names: each mistake names the file that is at fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from gateway.config.problems import ConfigError
from gateway.config.resolve.tls_files import server_files
from gateway.config.server import TlsConfig

TLS = TlsConfig(cert="tls.crt", key="tls.key", client_ca="ca.crt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = trustme.CA()
    pair = authority.issue_cert("localhost")
    pair.private_key_pem.write_to_path(tmp_path / "tls.key")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    return tmp_path


def encrypt(folder: Path) -> None:
    key = serialization.load_pem_private_key((folder / "tls.key").read_bytes(), None)
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def other_key(folder: Path) -> None:
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(folder / "tls.key")


def test_files_that_go_together_are_right(folder: Path) -> None:
    server_files(TLS).check(folder)


@pytest.mark.parametrize(
    ("spoil", "field", "message"),
    [
        (lambda folder: (folder / "tls.crt").unlink(), "cert", "No such file"),
        (lambda folder: (folder / "tls.key").unlink(), "key", "No such file"),
        (encrypt, "key", "is encrypted"),
        (other_key, "cert", "does not go with the key"),
        (lambda folder: (folder / "tls.crt").write_text("no PEM"), "cert", "does not go with"),
        (lambda folder: (folder / "ca.crt").write_text("no PEM"), "client_ca", "no PEM"),
    ],
)
def test_the_file_at_fault_is_named(
    folder: Path, spoil: Callable[[Path], object], field: str, message: str
) -> None:
    spoil(folder)
    with pytest.raises(ConfigError) as caught:
        server_files(TLS).check(folder)
    (problem,) = caught.value.problems
    assert problem.path == f"server.tls.{field}"
    assert message in problem.message
