"""A place like a container's: own network, read-only root, other user, nothing of this machine's.

Needs root and Linux: namespaces of mounts and of the network, made by `unshare`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.stack.chart.helm import ROOT
from tests.stack.install import apt_install

USER = 10001
RESOLV_CONF = """nameserver 127.0.0.1
search models.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
"""
"""As the kubelet writes it for a pod of the namespace `models`."""


def in_sandbox(
    command: Sequence[str], etc: Path, *, timeout_s: float, network: bool = False
) -> str:
    """Runs a command as root in new namespaces; its output.

    There / is read-only, /etc/moegate is `etc`; /opt, /tmp and /var/lib/moegate are writable and
    empty (but for this project, where it lies in /tmp), and the loopback interface is the only one,
    unless `network` leaves this machine's.
    Raises AssertionError with the output if it fails.
    """
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            apt_install(package)
    python = Path(sys.base_prefix)
    resolv_conf = Path("/etc/resolv.conf").read_text() if network else RESOLV_CONF
    (etc.parent / "resolv.conf").write_text(resolv_conf)
    paths = ("etc", etc), ("python", python), ("root", ROOT)
    quoted = {name: shlex.quote(str(path)) for name, path in paths}
    script = f"""
set -e
{"" if network else "ip link set lo up"}
mount --make-rprivate /
work=$(mktemp -d)
mount -t tmpfs tmpfs "$work"
cp -a /etc "$work/etc"
cp -a {quoted["etc"]} "$work/etc/moegate"
chmod -R a+rX "$work/etc/moegate"
rm -f "$work/etc/resolv.conf"
cp {shlex.quote(str(etc.parent / "resolv.conf"))} "$work/etc/resolv.conf"
mkdir -p "$work/python" "$work/lib/moegate"
mount --bind {quoted["python"]} "$work/python"
mount --bind "$work/etc" /etc
mount --bind "$work/lib" /var/lib
case {quoted["python"]} in
/root/*) mount -t tmpfs -o mode=755 tmpfs /root; mkdir -p {quoted["python"]}
  mount --bind "$work/python" {quoted["python"]} ;;
esac
mkdir "$work/tmp"
mount -t tmpfs -o mode=1777 tmpfs "$work/tmp"
case {quoted["root"]} in
/tmp/*) mkdir -p "$work"{quoted["root"]}; mount --bind {quoted["root"]} "$work"{quoted["root"]}
  mount -o remount,bind,ro "$work"{quoted["root"]} ;;
esac
mount -o remount,bind,ro /
mount --rbind "$work/tmp" /tmp
mount -t tmpfs -o mode=1777 tmpfs /opt
mount -t tmpfs -o mode=700,uid={USER},gid={USER} tmpfs /var/lib/moegate
exec {shlex.join(command)}
"""
    done = subprocess.run(
        ["unshare", "--mount", *([] if network else ["--net"]), "bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def as_user(command: Sequence[str], uid: int = USER) -> list[str]:
    """The command as the pod's user, or another, with no way to more rights."""
    user = f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"
    return ["setpriv", *user, "--bounding-set=-all", *command]
