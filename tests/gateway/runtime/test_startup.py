"""`moegate check` and `moegate serve` refuse the same files, with the same words."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
import yaml

from gateway.config.load.file import load
from gateway.config.problems import ConfigError
from gateway.server import running_gateway
from moegate.cli.commands import check

Config = dict[str, object]
CATALOG = """
remote_tokens:
  - id: far-2026
    provider: far
    model: moe
    usd_per_mtok: {input: "1", cached_input: "1", output: "2"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def base() -> Config:
    return {
        "server": {"listen": "127.0.0.1:0", "drain_delay_s": 0},
        "remotes": [
            {"name": "far", "remote_class": "eu", "model": "moe", "url": "http://127.0.0.1:1"}
        ],
        "tenants": [{"name": "team"}],
    }


def with_remote(**fields: object) -> Config:
    config = base()
    config["remotes"][0].update(fields)  # type: ignore[index]
    return config


def write_certificate(
    folder: Path,
    authority: trustme.CA,
    *,
    begin: datetime | None = None,
    end: datetime | None = None,
) -> None:
    issued = authority.issue_cert("localhost", not_before=begin, not_after=end)
    issued.private_key_pem.write_to_path(folder / "tls.key")
    (folder / "tls.key").chmod(0o600)
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


def with_tls(**fields: object) -> Config:
    config = base()
    config["server"]["tls"] = {"cert": "tls.crt", "key": "tls.key", **fields}  # type: ignore[index]
    return config


def catalog(text: str) -> Callable[[Path], Config]:
    def make(folder: Path) -> Config:
        (folder / "prices.yaml").write_text(text)
        return {**with_remote(price_row="far/moe"), "prices": {"catalog": "prices.yaml"}}

    return make


def no_catalog(folder: Path) -> Config:
    return {**base(), "prices": {"catalog": "absent.yaml"}}


def a_folder_as_catalog(folder: Path) -> Config:
    (folder / "prices.yaml").mkdir()
    return {**base(), "prices": {"catalog": "prices.yaml"}}


def row_without_catalog(folder: Path) -> Config:
    return with_remote(price_row="far/moe")


def misspelt_row(folder: Path) -> Config:
    return {**catalog(CATALOG)(folder), **with_remote(price_row="far/mo")}


def expired(folder: Path) -> Config:
    write_certificate(folder, trustme.CA(), begin=NOW - 9 * DAY, end=NOW - DAY)
    return with_tls()


def not_yet_valid(folder: Path) -> Config:
    write_certificate(folder, trustme.CA(), begin=NOW + DAY, end=NOW + 9 * DAY)
    return with_tls()


def expired_client_authority(folder: Path) -> Config:
    authority = trustme.CA()
    write_certificate(folder, authority)
    old = authority.issue_cert("old", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    (folder / "ca.pem").write_bytes(old.cert_chain_pems[0].bytes())
    return with_tls(client_ca="ca.pem")


def remote_gateway(folder: Path, **options: object) -> Config:
    return with_remote(api="moegate", url="grpcs://localhost:1", gateway=options)


def expired_remote_authority(folder: Path) -> Config:
    write_certificate(folder, trustme.CA(), begin=NOW - 9 * DAY, end=NOW - DAY)
    return remote_gateway(folder, ca="tls.crt")


def expired_remote_certificate(folder: Path) -> Config:
    write_certificate(folder, trustme.CA(), begin=NOW - 9 * DAY, end=NOW - DAY)
    return remote_gateway(folder, cert="tls.crt", key="tls.key")


def ledger_below_a_file(folder: Path) -> Config:
    (folder / "file").write_text("")
    return {**base(), "ledger": {"sqlite": "file/ledger.sqlite3"}}


def ledger_where_nobody_writes(folder: Path) -> Config:
    return {**base(), "ledger": {"sqlite": "/proc/moegate/ledger.sqlite3"}}


def ledger_is_a_folder(folder: Path) -> Config:
    (folder / "ledger").mkdir()
    return {**base(), "ledger": {"sqlite": "ledger"}}


def ledger_of_something_else(folder: Path) -> Config:
    (folder / "ledger").write_text("This is a text of more than sixteen bytes.")
    return {**base(), "ledger": {"sqlite": "ledger"}}


def spool_where_nobody_writes(folder: Path) -> Config:
    return {**base(), "ledger": {"spool": "/proc/spool"}}


def meter_state_in_no_folder(folder: Path) -> Config:
    return {**base(), "metering": {"state": "absent/state.json"}}


def one_address_twice(folder: Path) -> Config:
    return {**base(), "server": {"listen": "127.0.0.1:7001", "health_listen": "127.0.0.1:7001"}}


@dataclass(frozen=True)
class Broken:
    """A configuration that cannot start. `says`: parts of the message."""

    make: Callable[[Path], Config]
    says: tuple[str, ...]


BROKEN = {
    "no catalog": Broken(no_catalog, ("absent.yaml", "cannot be read", "fix:")),
    "a folder as catalog": Broken(a_folder_as_catalog, ("prices.yaml", "cannot be read")),
    "catalog is no yaml": Broken(catalog("a: [1"), ("prices.yaml",)),
    "catalog is a list": Broken(catalog("[]"), ("prices.yaml",)),
    "catalog of another shape": Broken(catalog("rows: []"), ("prices.yaml", "rows")),
    "a negative price": Broken(
        catalog(CATALOG.replace('output: "2"', 'output: "-2"')), ("remote_tokens[0]", "output")
    ),
    "a price without a date": Broken(
        catalog(CATALOG.replace("    valid_from: 2026-01-01\n", "")), ("valid_from",)
    ),
    "row without catalog": Broken(row_without_catalog, ("remotes[0].price_row", '"far/moe"')),
    "misspelt row": Broken(misspelt_row, ("remotes[0].price_row", "did you mean far/moe?")),
    "expired": Broken(expired, ("server.tls.cert", "expired on", "renew")),
    "not yet valid": Broken(not_yet_valid, ("server.tls.cert", "not valid before")),
    "expired client authority": Broken(
        expired_client_authority, ("server.tls.client_ca", "expired on")
    ),
    "expired remote authority": Broken(
        expired_remote_authority, ("remotes[0].gateway.ca", "expired on")
    ),
    "expired remote certificate": Broken(
        expired_remote_certificate, ("remotes[0].gateway.cert", "expired on")
    ),
    "ledger below a file": Broken(ledger_below_a_file, ("ledger.sqlite", "cannot be written")),
    "ledger where nobody writes": Broken(
        ledger_where_nobody_writes, ("ledger.sqlite", "cannot be written", "let the gateway's user")
    ),
    "ledger is a folder": Broken(ledger_is_a_folder, ("ledger.sqlite", "cannot be written")),
    "ledger of something else": Broken(ledger_of_something_else, ("ledger.sqlite", "no SQLite")),
    "spool where nobody writes": Broken(spool_where_nobody_writes, ("ledger.spool",)),
    "meter state in no folder": Broken(meter_state_in_no_folder, ("metering.state",)),
    "one address twice": Broken(one_address_twice, ("server.health_listen", "server.listen")),
}


def write(folder: Path, config: Config) -> Path:
    file = folder / "moegate.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def run_check(file: Path) -> int:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return check.run(parser.parse_args([str(file)]))


async def serve_error(file: Path) -> str:
    """What prevents a start; empty: nothing."""
    try:
        async with running_gateway(load(file), file.parent, path=file):
            return ""
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
async def test_check_and_serve_refuse_with_the_same_words(
    case: Broken, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, case.make(tmp_path))
    assert run_check(file) == 1
    out, told = capsys.readouterr()
    assert out == ""
    for part in case.says:
        assert part in told
    assert await serve_error(file) == told.rstrip("\n")


@pytest.mark.parametrize(
    "make",
    [lambda _: base(), catalog(CATALOG), lambda _: {**base(), "prices": {"starter": True}}],
    ids=["least", "with prices", "with the starter"],
)
async def test_check_and_serve_accept_the_same(
    make: Callable[[Path], Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, make(tmp_path))
    before = files(tmp_path)
    assert run_check(file) == 0
    assert files(tmp_path) == before  # a check leaves nothing behind
    assert "warning" not in capsys.readouterr().out
    assert await serve_error(file) == ""


def test_the_processes_say_the_same(tmp_path: Path) -> None:
    file = write(tmp_path, expired(tmp_path))
    ends = [
        subprocess.run(
            [sys.executable, "-m", "moegate", command, str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for command in ("check", "serve")
    ]
    assert [end.returncode for end in ends] == [1, 1]
    assert ends[0].stderr == ends[1].stderr
    assert "Traceback" not in ends[0].stderr


def warned(file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_check(file) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("mode", "open_"), [(0o600, False), (0o440, False), (0o644, True), (0o620, True)]
)
def test_secret_files_that_others_may_read_are_worth_a_warning(
    mode: int, open_: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("sk-test-key")
    (tmp_path / "key").chmod(mode)
    told = warned(write(tmp_path, with_remote(api_key={"file": "key"})), capsys)
    assert ("remotes[0].api_key.file" in told) is open_
    assert ("chmod 600" in told) is open_
    assert "sk-test-key" not in told


def test_a_private_key_that_others_may_read_is_worth_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_certificate(tmp_path, trustme.CA())
    os.chmod(tmp_path / "tls.key", 0o644)
    assert "server.tls.key" in warned(write(tmp_path, with_tls()), capsys)


def test_a_certificate_that_ends_soon_is_worth_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_certificate(tmp_path, trustme.CA(), begin=NOW - DAY, end=NOW + 3 * DAY)
    told = warned(write(tmp_path, with_tls()), capsys)
    assert "server.tls.cert" in told
    assert "ends in 3.0 days" in told


def test_one_old_authority_among_others_prevents_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = trustme.CA()
    write_certificate(tmp_path, authority)
    old = authority.issue_cert("old", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    bundle = old.cert_chain_pems[0].bytes() + authority.cert_pem.bytes()
    (tmp_path / "ca.pem").write_bytes(bundle)
    told = warned(write(tmp_path, with_tls(client_ca="ca.pem")), capsys)
    assert "warning: server.tls.client_ca: the certificate expired" in told


def test_an_address_of_another_computer_is_worth_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**base(), "server": {"listen": "203.0.113.7:50051"}}
    assert "server.listen" in warned(write(tmp_path, config), capsys)


def test_a_meter_state_that_cannot_be_read_is_worth_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.json").write_text("{}")
    config = {**base(), "metering": {"state": "state.json"}}
    assert "metering.state: the meter begins anew" in warned(write(tmp_path, config), capsys)


async def test_a_certificate_that_expired_does_not_prevent_a_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A key has to be revocable at any time."""
    write_certificate(tmp_path, trustme.CA())
    file = write(tmp_path, with_tls())
    async with running_gateway(load(file), tmp_path, path=file) as gateway:
        write_certificate(tmp_path, trustme.CA(), begin=NOW - 9 * DAY, end=NOW - DAY)
        write(tmp_path, {**with_tls(), "tenants": []})
        assert await gateway.reload_file() == ["tenants"]
        assert "server.tls.cert: the certificate expired on" in caplog.text
