"""Runs a command and ends everything that descends from it.

A script between `moegate up` and the command:

    process_keeper.py FD COMMAND...  writes the process id of COMMAND to FD, then waits

It adopts the processes that a dead parent leaves, in whatever group or session they are: vLLM's
engine and workers survive a killed API server or vllm-rs. It kills all of them when COMMAND has
ended, then ends in the same way. Standard input controls it: `t` sends SIGTERM to COMMAND, `k`
kills all; its end, which is the end of moegate, does both with GRACE_S between.

The script imports nothing of moegate, in order to start quickly.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path

KEEPER_COMMAND = (sys.executable, "-I", "-S", __file__)
"""The command that runs the keeper."""
GRACE_S = 3.0
"""Time between SIGTERM and SIGKILL after the end of moegate."""
RETRY_S = 0.02
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl(2), Linux only."""


def keep(told: int, command: list[str]) -> int:
    """Runs the command to its end. Returns the wait status of its process."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        _execute(keeper, told, command)
    signal.signal(signal.SIGTERM, lambda number, frame: _signal(child, signal.SIGTERM))
    os.write(told, b"%d\n" % child)
    os.close(told)
    open_files = [wake, sys.stdin.fileno()]
    kill_at_s: float | None = None
    while not _has_ended(child):
        wait_s = None if kill_at_s is None else max(0.0, kill_at_s - time.monotonic())
        ready, _, _ = select.select(open_files, [], [], wait_s)
        if wake in ready:
            os.read(wake, 4096)
        if sys.stdin.fileno() in ready:
            word = os.read(sys.stdin.fileno(), 1)
            if word == b"k":
                kill_at_s = time.monotonic()
            else:
                _signal(child, signal.SIGTERM)
            if not word:
                open_files.remove(sys.stdin.fileno())
                kill_at_s = time.monotonic() + GRACE_S
        if kill_at_s is not None and time.monotonic() >= kill_at_s:
            break
    return _kill_all(child)


def descendants(ancestor: int) -> list[int]:
    """Processes below another one. Without /proc: none."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = stat.read_text(errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [ancestor]
    for process in found:
        found += children.get(process, ())
    return found[1:]


def _kill_all(child: int) -> int:
    """Kills until no child is left, adopted ones included. Returns the child's wait status."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child_status: int | None = None
    while True:
        if child_status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
        for process in descendants(os.getpid()):
            _signal(process, signal.SIGKILL)
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return child_status or 0
        if ended == child:
            child_status = status
        if not ended:
            time.sleep(RETRY_S)


def _has_ended(child: int) -> bool:
    """Whether the child has ended; it stays to be collected. Collects the adopted ones."""
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if ended.si_pid == child:
            return True
        os.waitpid(ended.si_pid, 0)
    return False


def _execute(keeper: int, told: int, command: list[str]) -> None:
    """Becomes the command, in a session of its own. It does not outlive the keeper."""
    try:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # which was killed before the line above
            return
        os.close(told)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execv(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)


def _end_as(status: int) -> None:
    """Ends with the status or by the signal of a wait status."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _end_as(keep(int(sys.argv[1]), sys.argv[2:]))
