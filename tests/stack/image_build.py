"""Does what `docker build` and `docker run` would, inside the sandbox: `python -m ... DOCKERFILE`.

Instructions are performed one by one: COPY as root, RUN as an unprivileged user, the last stage's
command as its USER with everything read-only. Prints what was seen.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.stack.sandbox import as_user

NOBODY = 65534
BOUND_S = 400


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction with its arguments."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


def build(dockerfile: Path) -> None:
    """Every stage, the start of the container included."""
    source, stage, user = dockerfile.parent, 0, ""
    allowed = (source / ".dockerignore").read_text().splitlines()
    base = f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment = {"PATH": base, "HOME": "/tmp", **pip}
    command: list[str] = []
    for word, rest in instructions(dockerfile.read_text()):
        match word:
            case "FROM":
                stage += 1
                assert "python:3.11-slim" in rest, rest
            case "COPY" if rest == "--from=build --chown=10001:10001 /opt/state /var/lib/moegate":
                pass  # the sandbox has that folder
            case "COPY" if rest.startswith("--from=build "):
                _, built, target = rest.split()
                assert built == target, "the sandbox has one /opt for all stages"
            case "COPY":
                *names, target = rest.split()
                for name in names:
                    assert f"!{name}" in allowed, f"{name} is not in .dockerignore's list"
                    copy(source / name, Path(target), directory=len(names) > 1)
            case "RUN":
                run(as_user(["sh", "-c", rest], NOBODY), environment)
            case "ENV":
                environment |= dict(item.split("=", 1) for item in shlex.split(rest))
                environment["PATH"] = environment["PATH"].replace("/usr/local/bin", base)
            case "USER":
                user = rest.partition(":")[0]
            case "ENTRYPOINT" | "CMD":
                command += json.loads(rest)
            case "EXPOSE":
                pass
            case _:
                raise AssertionError(f"an instruction that is not known here: {word}")
    assert stage == 2
    assert int(user) > 0, "the container must not run as root"
    subprocess.run(["mount", "-o", "remount,ro", "/opt"], check=True)
    environment = {k: v for k, v in environment.items() if not k.startswith("PIP_")}
    examine(int(user), environment)
    start(as_user(command, int(user)), environment)


def copy(source: Path, target: Path, *, directory: bool) -> None:
    """As COPY does: a folder's content, or a file into a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        return
    if directory or str(target).endswith("/") or target.name == "source":
        target.mkdir(parents=True, exist_ok=True)
        target = target / source.name
    shutil.copyfile(source, target)


def run(command: list[str], environment: dict[str, str]) -> str:
    """Raises AssertionError with the output."""
    done = subprocess.run(
        command,
        env=environment,
        cwd="/tmp",
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def examine(user: int, environment: dict[str, str]) -> None:
    """What is in the image."""
    print(run(as_user(["moegate", "--version"], user), environment))
    listing = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    names = run(as_user(["/opt/moegate/bin/python", "-c", listing], user), environment).split()
    assert {"moegate", "grpcio", "asyncpg"} <= set(names), names
    unwanted = {"torch", "vllm", "pip", "hatchling", "pytest", "matplotlib", "grpcio-tools"}
    assert not unwanted & set(names), names
    size = sum(file.lstat().st_size for file in Path("/opt/moegate").rglob("*") if file.is_file())
    print(f"{len(names)} packages, {size / 1e6:.0f} MB beside Python")
    run(as_user(["moegate", "check", "/etc/moegate/config/moegate.yaml"], user), environment)


def start(command: list[str], environment: dict[str, str]) -> None:
    """The container's own command, until it listens; then its end."""
    process = subprocess.Popen(
        command, env=environment, cwd="/tmp", stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    until = time.monotonic() + BOUND_S
    while time.monotonic() < until and (line := process.stdout.readline()):
        if "moegate listens on" in line:
            print(line.strip())
            process.terminate()
            assert process.wait(BOUND_S) == 0
            print("ended well")
            return
    raise AssertionError(f"it did not listen: {shlex.join(command)}")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
