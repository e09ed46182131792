"""A node's process: its command line, its environment, and its end when its parent dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rlfp_ros.graph.description import NodeProcess

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def node_command(process: NodeProcess, parameter_file: Path) -> list[str]:
    """Return the command line of a node; `parameter_file` holds its `parameters`."""
    # -P: the working folder must not shadow modules. -u: a crash must not lose the last lines.
    command = [sys.executable, "-P", "-u", "-m", f"rlfp_ros.nodes.{process.executable}", "--ros-args"]
    command += ["-r", f"__node:={process.name}"]
    if process.namespace:
        command += ["-r", f"__ns:={process.namespace}"]
    for name, target in process.remappings.items():
        command += ["-r", f"{name}:={target}"]
    for path in (*process.parameter_files, parameter_file):
        command += ["--params-file", str(path)]
    return [*command, "--log-level", process.log_level]


def child_environment(changes: dict[str, str]) -> dict[str, str]:
    """Return the environment of a node: this process's with `changes`."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **changes}
    # The runner's prefix already names the node.
    environment.setdefault("RCUTILS_CONSOLE_OUTPUT_FORMAT", "[{severity}] {message}")
    environment.setdefault("RCUTILS_COLORIZED_OUTPUT", "0")
    # In a source tree the package is found through the path, not because it is installed.
    root = Path(__file__).resolve().parents[2]
    if (root / "setup.cfg").exists():
        path = [str(root), *(entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry)]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
    # The ROS wheels' start-up hook leaves this mark once LD_LIBRARY_PATH is set; the one is no good without the other.
    if "LD_LIBRARY_PATH" not in environment:
        environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return environment


def die_with_parent(parent: int) -> Callable[[], None] | None:
    """Return a function that ties a child's life to the parent's, for use between fork and exec; None if impossible.

    The child also ignores SIGINT until rclpy installs its handlers: Python would answer with a traceback of whatever it
    is importing. `ignores_interrupt` finds such a child, which SIGTERM ends without a word.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork

    def die_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    return die_with_parent


def ignores_interrupt(pid: int) -> bool:
    """Return whether a process ignores SIGINT, as a node does while it starts."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:  # it has ended, or this is no Linux
        return False
    ignored = next((line for line in status.splitlines() if line.startswith("SigIgn:")), "SigIgn: 0")
    return bool(int(ignored.split()[1], 16) & 1 << (signal.SIGINT - 1))
