"""Builds an image from the Dockerfile with buildah, and runs it with runc. Needs root.

The base image is Debian made by debootstrap, so that no registry of images is needed. The
Dockerfile is unchanged; `BASE_IMAGE` names the base.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.stack.chart.helm import ROOT
from tests.stack.install import apt_install

CACHE = ROOT / ".cache" / "image"
BASE = "localhost/moegate-base"
IMAGE = "localhost/moegate"
TIMEOUT_S = 900
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CONTAINER_FS: tuple[dict[str, Any], ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
)


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Output of a command. Raises AssertionError with all that it said."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def buildah(*arguments: str | Path) -> str:
    """Output of buildah, whose images lie below `CACHE`."""
    places = ("--root", CACHE / "storage", "--runroot", CACHE / "run")
    return run("buildah", *places, *arguments, env={"STORAGE_DRIVER": "vfs"})


def install() -> None:
    """Installs what is missing of buildah, debootstrap and runc."""
    wanted = ("buildah", "debootstrap", "runc")
    if missing := [name for name in wanted if shutil.which(name) is None]:
        apt_install(*missing)


def build() -> None:
    """Builds the base image, unless it is there, and the gateway's image."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if BASE not in buildah("images", "--format", "{{.Name}}").splitlines():
        _build_base()
    given = {
        name: value
        for name in ("PIP_INDEX_URL", "PIP_TRUSTED_HOST")
        if (value := os.environ.get(name))
    }
    arguments = [
        f"--build-arg={name}={value}"
        for name, value in {**given, "BASE_IMAGE": BASE, "VERSION": "0.0.1"}.items()
    ]
    # Without a daemon and without a bridge: RUN in a chroot, on this machine's network.
    how = ("--isolation=chroot", "--network=host", "--layers=false")
    buildah("bud", *how, *arguments, "-t", IMAGE, ROOT)


def _build_base() -> None:
    folder = CACHE / "base"
    shutil.rmtree(folder, ignore_errors=True)
    include = "--include=python3,python3-venv,ca-certificates"
    run("debootstrap", "--variant=minbase", include, "bookworm", folder)
    # The name that the official image has.
    (folder / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    # Whoever this machine trusts: a proxy or a mirror of packages may have an authority of its own.
    shutil.copyfile(CERTIFICATES, folder / CERTIFICATES.relative_to("/"))
    container = buildah("from", "scratch")
    buildah("copy", "-q", container, folder, "/")
    buildah("config", "--env", f"PIP_CERT={CERTIFICATES}", container)
    buildah("commit", "-q", container, BASE)
    buildah("rm", container)
    shutil.rmtree(folder)


def settings() -> dict[str, Any]:
    """What the image says of itself: user, command, environment, labels, ports."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type=image", IMAGE))["OCIv1"]["config"]
    return found


@contextmanager
def root_file_system() -> Iterator[Path]:
    """The image's files, mounted."""
    container = buildah("from", IMAGE)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("umount", container)
        buildah("rm", container)


class Container:
    """A container: read-only root, the image's user, no capability, no way to more rights, and this
    machine's network."""

    def __init__(self, bundle: Path, name: str) -> None:
        self._runc = ("runc", "--root", str(bundle / "state"))
        self._bundle = bundle
        self._name = name
        self.process: subprocess.Popen[str] | None = None

    def start(self, root: Path, config: Path, arguments: list[str] | None = None) -> None:
        """Starts the image's command, or its entry point with arguments."""
        image = settings()
        user, _, group = image["User"].partition(":")
        process = {
            "user": {"uid": int(user), "gid": int(group)},
            "args": image["Entrypoint"] + (image["Cmd"] if arguments is None else arguments),
            "env": [*image["Env"], "HOME=/tmp"],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        }
        owner = [f"uid={user}", f"gid={group}", "mode=700"]
        state = {"destination": "/var/lib/moegate", "type": "tmpfs", "source": "t"}
        mounts = [
            *CONTAINER_FS,
            {**state, "options": owner},
            {
                "destination": "/etc/moegate/config",
                "type": "bind",
                "source": str(config),
                "options": ["rbind", "ro"],
            },
        ]
        namespaces = [{"type": name} for name in ("pid", "ipc", "uts", "mount")]
        description = {
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": str(root), "readonly": True},
            "mounts": mounts,
            "linux": {"namespaces": namespaces},
        }
        (self._bundle / "config.json").write_text(json.dumps(description))
        self.process = subprocess.Popen(
            [*self._runc, "run", "--bundle", str(self._bundle), self._name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def execute(self, *command: str) -> str:
        """Output of a command beside the one that runs, with its rights."""
        return run(*self._runc, "exec", self._name, *command)

    def terminate(self) -> tuple[int, str]:
        """Sends SIGTERM. Returns the exit status and the rest of the output."""
        assert self.process is not None
        run(*self._runc, "kill", self._name, "TERM")
        rest, _ = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, rest

    def remove(self) -> None:
        """Kills whatever is left."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        subprocess.run(
            [*self._runc, "delete", "--force", self._name], capture_output=True, check=False
        )
