"""A signal at any moment of a worker's start ends a training with one line and leaves no process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rlfp_ros.learning.runs import processes

ROOT = Path(__file__).resolve().parents[1]
# Sends a signal to this process, or (Ctrl-C) to the whole group, at the first `moment` of a process's start.
INTERRUPTED = """
import multiprocessing.forkserver, multiprocessing.util, os, signal, sys
from multiprocessing.process import BaseProcess

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a script ignores it
sent = []

def interrupt():
    if not sent:
        sent.append(True)
        if name == "SIGINT":
            os.killpg(0, signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

def interrupting(call, before=False):
    def wrapped(*arguments):
        if before:
            interrupt()
        found = call(*arguments)
        if "resource_tracker" not in str(arguments):
            interrupt()
        return found
    return wrapped

if __name__ == "__main__":  # workers import this file too
    from rlfp_ros.cli import main

    moment, name = sys.argv[1:3]
    if moment in ("before", "after"):
        BaseProcess.start = interrupting(BaseProcess.start, before=moment == "before")
    else:  # the new process waits for the data it begins with
        module = multiprocessing.util if moment == "spawned" else multiprocessing.forkserver
        call = "spawnv_passfds" if moment == "spawned" else "connect_to_new_process"
        setattr(module, call, interrupting(getattr(module, call)))
    code = main(sys.argv[3:])
    sys.exit(code if sent else "no process was started")
"""
A3C = ("--algorithm", "a3c", "--observation", "state", "--profile", "none", "--steps", "2000")
REINFORCEMENT = ("--recipe", "reinforcement", "--work", "0.003")
IMITATION = ("--recipe", "imitation", "--work", "0.003")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("moment", "name", "options"),
    [
        ("before", "SIGTERM", A3C),
        ("forked", "SIGTERM", A3C),
        ("forked", "SIGINT", A3C),
        ("spawned", "SIGTERM", REINFORCEMENT),
        ("spawned", "SIGINT", REINFORCEMENT),
        ("spawned", "SIGTERM", IMITATION),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else value,
)
def test_a_signal_while_workers_start_ends_in_one_line(
    moment: str, name: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    results = ("--run", str(tmp_path / "run"), *(() if options is A3C else ("--out", str(tmp_path / "bundle"))))
    training = subprocess.Popen(
        [sys.executable, "-P", str(script), moment, name, "train", "reach", *options, *results],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _, errors = training.communicate(timeout=250)  # returns once no child holds the pipe any more
    said = [line for line in errors.strip().splitlines() if not line.endswith("prepares the control core")]
    assert (training.returncode, said) == (130, ["rlfp: interrupted"])
    left = [one for one in psutil.process_iter() if _runs_in(training.pid, one)]
    commands = [" ".join(one.cmdline()) for one in left]
    _, alive = psutil.wait_procs(left, timeout=2)  # the resource tracker notices the end of its parent
    assert not alive, commands


def _runs_in(session: int, process: psutil.Process) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


class OneThatFails(multiprocessing.get_context("spawn").Process):  # type: ignore[misc]  # made at run time
    """A process that cannot be started."""

    def start(self) -> None:
        raise OSError("no more processes")


def test_if_one_process_cannot_start_the_others_end() -> None:
    context = multiprocessing.get_context("spawn")
    sleeping = context.Process(target=time.sleep, args=(60,), daemon=True)
    with pytest.raises(OSError, match="no more processes"):
        processes.start([sleeping, OneThatFails()])
    assert sleeping.exitcode == -signal.SIGTERM
    processes.end([context.Process(target=time.sleep)])  # one that was never started
