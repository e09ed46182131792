"""Records a short bag of the drivers' topics, for tools that read bags."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from rlfp_ros.graph.arguments import parse_assignments
from rlfp_ros.graph.environment_check import check_environment
from rlfp_ros.graph.node_process import child_environment, node_command
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.schema import ConfigurationError

LIVE_S = 6.0  # long enough for the recorder to start and to see the arm at rest
CLOSING_S = 40.0  # the recorder gives its disk 30 s


def record_live(arm_name: str, launch_arguments: Sequence[str], out: Path) -> Path:
    """Record the drivers' topics for `LIVE_S`, also beside a running graph, and return the bag's folder.

    `launch_arguments` (name:=value of real_arm.launch.py) select the topics. Raises ConfigurationError if no message
    came.
    """
    given = parse_assignments(launch_arguments, "real_arm.launch.py")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{out}: cannot be made ({error.strerror}); choose another --out") from None
    folder = Path(tempfile.mkdtemp(prefix="live_", dir=out))
    values = {"arm": arm_name, **given, "record": str(folder), "record_per_episode": False}
    resolved = resolve(REAL_ARM, values, check=False)
    recorder = next(process for process in resolved.processes if process.name == "recorder")
    recorder = replace(recorder, name="live_recorder")  # the graph's own may run beside it
    surroundings = child_environment(recorder.environment)
    check_environment(surroundings, resolved.arguments["transport"])
    parameters = folder / "recorder.yaml"
    parameters.write_text(yaml.safe_dump({"/**": {"ros__parameters": recorder.parameters}}), encoding="utf-8")
    process = subprocess.Popen(
        node_command(recorder, parameters),
        env=surroundings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LIVE_S)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=CLOSING_S)
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"{folder}: the recorder did not close its bag in {CLOSING_S:g} s") from None
    finally:
        process.kill()  # does nothing if it has ended
        process.wait()
    if process.returncode:
        raise ConfigurationError(f"the recorder ended with exit code {process.returncode}: {said.strip()[-300:]}")
    if not (folder / "run").is_dir():
        raise ConfigurationError(f"nothing came in {LIVE_S:g} s; start the drivers, or say which topics are theirs")
    return folder / "run"
