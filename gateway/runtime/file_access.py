"""Problems of the files that a configuration names: dates of certificates, folders that cannot be
written, secrets that others may read."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.config.gateway import GatewayConfig
from gateway.config.problems import Problem, field_path, problem
from gateway.config.resolve.certificate_dates import Validity, validities
from gateway.config.values import SecretConfig

SQLITE_HEAD = b"SQLite format 3\0"
OPEN_MODE = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
"""Permissions that a secret file should not have. A group may read it, because Kubernetes gives
mounted secrets to a group."""
SOON_S = 14 * 86_400
"""A certificate that ends sooner than this is worth a warning."""


def certificate_problems(
    config: GatewayConfig, base_dir: Path, now_s: float
) -> Iterator[tuple[bool, Problem]]:
    """Yields whether a problem prevents a start, and the problem. `now_s`: Unix seconds."""
    for path, file, is_authority in _certificates(config):
        dates = validities((base_dir / file).read_bytes())
        # A bundle of authorities may hold old ones. Of a chain, the first must be valid.
        faults = [fault for fault in (_fault(each, now_s) for each in dates) if fault]
        fatal = (
            len(faults) == len(dates) if is_authority else bool(dates and _fault(dates[0], now_s))
        )
        if faults:
            yield (
                fatal,
                problem(path, file, faults[0], "renew it, or set the clock of this computer"),
            )
        elif (
            left_s := min((each.to_s for each in dates), default=now_s + SOON_S) - now_s
        ) < SOON_S:
            text = f"the certificate ends in {left_s / 86_400:.1f} days"
            yield False, problem(path, file, text, "renew it")


def _certificates(config: GatewayConfig) -> Iterator[tuple[str, str, bool]]:
    """Path in the configuration, file, and whether it holds authorities."""
    tls = config.server.tls
    if tls is not None:
        yield "server.tls.cert", tls.cert, False
        if tls.client_ca is not None:
            yield "server.tls.client_ca", tls.client_ca, True
    if config.cluster is not None:
        yield "cluster.tls.cert", config.cluster.tls.cert, False
        yield "cluster.tls.ca", config.cluster.tls.ca, True
    for i, remote in enumerate(config.remotes):
        if remote.gateway.ca is not None:
            yield f"remotes[{i}].gateway.ca", remote.gateway.ca, True
        if remote.gateway.cert is not None:
            yield f"remotes[{i}].gateway.cert", remote.gateway.cert, False


def _fault(dates: Validity, now_s: float) -> str:
    if now_s > dates.to_s:
        return f"the certificate expired on {_day(dates.to_s)}"
    if now_s < dates.from_s:
        return f"the certificate is not valid before {_day(dates.from_s)}"
    return ""


def _day(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M} UTC"


def written_file_problems(config: GatewayConfig, base_dir: Path) -> Iterator[Problem]:
    """Yields a problem for each file that the gateway writes, and could not."""
    ledger = config.ledger
    if ledger.postgres is None:
        yield from _unwritable("ledger.sqlite", ledger.sqlite, base_dir, makes_folder=True)
        yield from _not_sqlite("ledger.sqlite", ledger.sqlite, base_dir)
    if ledger.spool is not None:
        yield from _unwritable("ledger.spool", ledger.spool, base_dir, makes_folder=True)
    if config.metering.state is not None:
        state = config.metering.state
        yield from _unwritable("metering.state", state, base_dir, makes_folder=False)


def _unwritable(path: str, name: str, base_dir: Path, *, makes_folder: bool) -> Iterator[Problem]:
    """`makes_folder`: the gateway makes the folder of the file if there is none."""
    file = base_dir / name
    folder = file.parent
    try:
        while makes_folder and not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
        if file.exists():
            with file.open("r+b"):
                pass
    except OSError as error:
        where = file if error.filename is None or folder.is_dir() else folder
        message = f"{where} cannot be written: {error.strerror or error}"
        yield problem(path, name, message, f"let the gateway's user write in {file.parent}")


def _not_sqlite(path: str, name: str, base_dir: Path) -> Iterator[Problem]:
    try:
        with (base_dir / name).open("rb") as file:
            head = file.read(len(SQLITE_HEAD))
    except OSError:
        return  # absent, or reported already
    if head and head != SQLITE_HEAD:
        message = "the file is no SQLite database"
        yield problem(path, name, message, "name another file, or one that does not exist yet")


def open_secrets(config: GatewayConfig, base_dir: Path) -> Iterator[Problem]:
    """Yields a problem for each secret file, or private key, that others may read."""
    files = list(_secret_files(config, ""))
    if config.server.tls is not None:
        files.append(("server.tls.key", config.server.tls.key))
    if config.cluster is not None:
        files.append(("cluster.tls.key", config.cluster.tls.key))
    for i, remote in enumerate(config.remotes):
        if remote.gateway.key is not None:
            files.append((f"remotes[{i}].gateway.key", remote.gateway.key))
    for path, file in files:
        try:
            mode = (base_dir / file).stat().st_mode
        except OSError:
            continue  # an unreadable secret is reported elsewhere
        if mode & OPEN_MODE:
            message = f"others may read or change the file: its mode is {stat.S_IMODE(mode):04o}"
            yield problem(path, file, message, f"chmod 600 {base_dir / file}")


def _secret_files(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Path in the configuration and file of every secret below a part."""
    if isinstance(value, SecretConfig):
        if value.file is not None:
            yield f"{path}.file", value.file
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _secret_files(getattr(value, name), field_path(path, name))
    elif isinstance(value, tuple):
        for i, each in enumerate(value):
            yield from _secret_files(each, f"{path}[{i}]")
