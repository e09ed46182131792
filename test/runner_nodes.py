"""Child processes that stand in for nodes, a runner that starts them, and waiting for them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from rlfp_ros.graph import runner as runner_module
from rlfp_ros.graph.description import Graph, NodeProcess, OnExit, Resolved, Respawn

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 20.0  # for events that take milliseconds on an idle machine
STOP_LIMIT_S = 3.0  # what the runner promises

# A program that stands in for a node: it prints that it is up, then waits for a signal.
WELL_BEHAVED = "import time; print('up', flush=True)\ntime.sleep(60)"
IGNORES_SIGINT_AND_SIGTERM = (
    "import signal, time\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True)\ntime.sleep(60)"
)


def node(name: str, program: str, on_exit: OnExit = OnExit.FAIL, respawn: Respawn | None = None) -> NodeProcess:
    """Return a node that runs a Python program."""
    return NodeProcess(
        name=name,
        executable=program,  # `command` below runs it
        namespace="",
        parameters={},
        parameter_files=(),
        remappings={},
        log_level="info",
        environment={},
        on_exit=on_exit,
        respawn=respawn,
    )


def command(process: NodeProcess, _: Path) -> list[str]:
    """Return the command of a node that `node` made."""
    return [sys.executable, "-S", "-u", "-c", process.executable]  # -S: no start-up hooks, starts in 15 ms


def Runner(*arguments: Any, **options: Any) -> runner_module.Runner:
    """Return a runner for nodes that `node` made."""
    return runner_module.Runner(*arguments, **{"command": command, **options})


def resolved(*nodes: NodeProcess) -> Resolved:
    """Return a graph of these nodes."""
    return Resolved(Graph("test", "", (), ()), {}, nodes)


def wait_until(condition: Callable[[], bool], what: str, limit: float = LIMIT_S) -> None:
    """Wait for a condition. Programs of the tests import this module, so it does not import conftest.py."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {limit} s"
        time.sleep(0.005)


def wait_until_up(runner: runner_module.Runner, *names: str) -> None:
    """Wait until these nodes have printed that they are up."""
    wait_until(lambda: all("up" in runner.tail(name) for name in names), f"start of {names}")


def gone(pids: list[int]) -> bool:
    """Return whether none of the processes runs."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
