"""A real PostgreSQL: Debian's, in a temporary folder, on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.stack.install import apt_install

USER = "postgres"
START_S = 60


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server that was started; `stop` and `start` take it away and back."""

    binaries: Path
    folder: Path
    port: int
    password: str

    @property
    def dsn(self) -> str:
        """Address of its only database."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/postgres"

    @property
    def postmaster_pid(self) -> int:
        """Id of its first process."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    async def new_database(self, name: str) -> str:
        """An empty database of this name; returns its address."""
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        return self.dsn.removesuffix("/postgres") + f"/{name}"

    def start(self) -> None:
        """Starts it; returns when it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder}"
        log = self.folder / "log"
        self._run(
            "pg_ctl", "-D", self._data, "-w", "-t", START_S, "-l", log, "-o", options, "start"
        )

    def stop(self) -> None:
        """Stops it at once, as a crash would: open connections are cut."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def create(self) -> None:
        """Makes the data folder."""
        file = self.folder / "password"
        file.write_text(self.password)
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER)
            shutil.chown(file, USER)
        self._run(
            *("initdb", "-D", self._data, "-U", USER, "-A", "scram-sha-256"),
            *("--pwfile", file, "-E", "UTF8", "--no-sync"),
        )

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self.binaries / program), *map(str, arguments)]
        if os.geteuid() == 0:
            # The server refuses to run as root. Not by subprocess's `user`: that forks instead of
            # spawning, and gRPC's threads, which a fork wakes in the child, crash there at times.
            ids = f"--reuid={USER}", f"--regid={USER}", "--init-groups"
            command = ["setpriv", *ids, *command]
        # Its output goes to a file: the daemon inherits it, and a pipe would not end before the
        # daemon does.
        with (self.folder / f"{program}.out").open("wb") as output:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                timeout=2 * START_S,
                check=False,
            )
        if done.returncode:
            logs = [(self.folder / f"{program}.out"), self.folder / "log"]
            told = "\n".join(log.read_text() for log in logs if log.exists())
            raise RuntimeError(f"{' '.join(command)} failed:\n{told}")


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Installs PostgreSQL where it is missing, and runs a new server of it."""
    if not _binaries():
        apt_install("postgresql")
    binaries = _binaries()
    if not binaries:
        raise RuntimeError("PostgreSQL was installed, but there is no initdb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    # Not below pytest's own folder: that one is closed to other users than the one who runs it.
    folder = Path(tempfile.mkdtemp(prefix="moegate-postgres-"))
    server = Postgres(binaries[-1], folder, port, secrets.token_urlsafe(16))
    try:
        server.create()
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(RuntimeError):  # a test may have stopped it
                server.stop()
    finally:
        shutil.rmtree(folder)


def _binaries() -> list[Path]:
    """Folders that hold initdb, the oldest version first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if not found and (path := shutil.which("initdb")):
        found = [Path(path)]
    return [path.parent for path in found]


def _version(path: Path) -> float:
    return float(path.parent.parent.name)
