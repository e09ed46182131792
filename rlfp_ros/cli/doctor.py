"""`rlfp doctor`: reports installed versions, the ROS in use, and missing parts with the command that installs them."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from rlfp_ros import __version__, paths, plugins
from rlfp_ros.contract import load_bundle
from rlfp_ros.drivers.v4l2 import DEVICES, list_cameras
from rlfp_ros.files import write_whole
from rlfp_ros.graph import dds
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.environment_check import SHARED_MEMORY_BYTES, Problem, problems
from rlfp_ros.graph.node_process import child_environment
from rlfp_ros.requirements import install_command, requirement_sets
from rlfp_ros.schema import ConfigurationError

ROS_LIMIT_S = 20.0  # starting rclpy takes about 0.3 s; a machine under load may need some seconds

# Creates a node that subscribes to its own topic: this tests rclpy, rmw and the transport.
ROS_PROBE = """
import os, time
import rclpy
from std_msgs.msg import Header
rclpy.init()
node = rclpy.create_node("rlfp_doctor")
heard = []
node.create_subscription(Header, "rlfp_doctor/echo", heard.append, 1)
publisher = node.create_publisher(Header, "rlfp_doctor/echo", 1)
deadline = time.monotonic() + 8.0
while not heard and time.monotonic() < deadline:
    publisher.publish(Header(frame_id="hello"))
    rclpy.spin_once(node, timeout_sec=0.05)
print(rclpy.get_rmw_implementation_identifier(), "heard" if heard else "silent", rclpy.__file__)
rclpy.try_shutdown()
"""


class Health(Enum):
    """Severity of a finding."""

    OK = "ok"
    NOTE = "note"  # optional; the text names the advantage
    BAD = "missing"  # needed by the graph


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    part: str
    health: Health
    text: str
    fix: str = ""  # a command, or what to do


def run(json_path: Path | None = None, console: Console | None = None) -> int:
    """Print the report. Returns exit code 0 if the graph can run, 1 if something that it needs is missing."""
    console = console or Console(highlight=False)
    colours = {Health.OK: "green", Health.NOTE: "yellow", Health.BAD: "red"}
    findings = []
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in examine():
        findings.append(finding)
        colour = colours[finding.health]
        fix = f"\n[bold]{finding.fix}[/]" if finding.fix else ""
        table.add_row(f"[{colour}]{finding.health.value}[/]", finding.part, finding.text + fix)
    console.print(table)
    bad = [finding for finding in findings if finding.health is Health.BAD]
    console.print(
        f"{len(bad)} thing{'s' * (len(bad) != 1)} missing" if bad else "everything that the graph needs is there"
    )
    if json_path:
        rows = [{**asdict(finding), "health": finding.health.value} for finding in findings]
        write_whole(json_path, json.dumps(rows, indent=1) + "\n", "run the command again or choose another --json")
    return 1 if bad else 0


def examine() -> Iterator[Finding]:
    """Yield every finding in the order of the report."""
    yield Finding("rlfp_ros", Health.OK, f"{__version__} in {Path(__file__).resolve().parents[2]}")
    yield _python()
    yield _machine()
    wrong = [_of_environment(problem) for problem in problems(child_environment({}))]
    yield from wrong or [Finding("environment", Health.OK, "no variable keeps nodes from hearing each other")]
    yield from _ros(environment_is_right=not wrong)
    yield from requirement_findings()
    yield from plugin_findings()
    yield _cv_bridge()
    yield _opengl()
    yield _shared_memory()
    yield _real_time()
    yield from camera_findings()
    yield from _bundles()


def _python() -> Finding:
    text = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return Finding("Python", Health.OK, text)
    return Finding("Python", Health.BAD, f"{text}, expected 3.11 or 3.12", "apt-get install python3.11 python3.11-venv")


def _machine() -> Finding:
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{platform.system()} {platform.machine()}, {cores} cores, {memory:.0f} GiB"
    if cores < 2:
        return Finding("machine", Health.NOTE, f"{text}; the real-time graph wants two cores")
    return Finding("machine", Health.OK, text)


def _of_environment(problem: Problem) -> Finding:
    return Finding(problem.name, Health.BAD, problem.text, problem.fix)


def _ros(environment_is_right: bool = True) -> Iterator[Finding]:
    distro = os.environ.get("ROS_DISTRO")
    source = f"ROS 2 {distro}, sourced" if distro else "ROS 2 Jazzy from PyPI wheels"
    with reserved_domain() as domain:
        environment = child_environment(dds.environment("local", str(domain)))
        try:
            probe = subprocess.run(
                [sys.executable, "-P", "-c", ROS_PROBE],
                capture_output=True,
                text=True,
                timeout=ROS_LIMIT_S,
                env=environment,
                check=False,
            )
            lines, error = probe.stdout.split(), _last_error(probe.stderr)
        except subprocess.TimeoutExpired:
            lines, error = [], f"a node did not start within {ROS_LIMIT_S:g} s"
    fix = "rosdep install --from-paths . --ignore-src" if distro else "rm .venv/rlfp-installed.json && ./rlfp doctor"
    if not environment_is_right:
        fix = "correct the environment as said above, then run ./rlfp doctor again"
    if len(lines) != 3:
        yield Finding("ROS 2", Health.BAD, f"{source}: rclpy does not run ({error})", fix)
    elif lines[1] != "heard":
        yield Finding("ROS 2", Health.BAD, f"{source}: a node does not hear itself over {lines[0]}", "df -h /dev/shm")
    else:
        yield Finding("ROS 2", Health.OK, f"{source}; a node hears itself over {lines[0]}")
    wanted = os.environ.get("RMW_IMPLEMENTATION")
    if wanted and lines and wanted != "rmw_fastrtps_cpp":
        yield Finding(
            "middleware",
            Health.NOTE,
            f"RMW_IMPLEMENTATION is {wanted}; transport:= and the large-image profile are Fast DDS's",
            "unset RMW_IMPLEMENTATION",
        )


def _last_error(stderr: str) -> str:
    """Return the message of the last exception in a program's output, without the traceback; it may have two lines."""
    lines = [line.strip() for line in stderr.strip().splitlines()]
    message = lines[-1:] or ["no message"]
    if message[0].startswith(",") and len(lines) > 1:  # rcl continues with ", at FILE"
        message.insert(0, lines[-2])
    return " ".join(message)


def plugin_findings() -> Iterator[Finding]:
    """Report the plugin files of RLFP_PLUGINS that are missing: most commands refuse to run then."""
    for name in filter(None, os.environ.get(plugins.VARIABLE, "").split(os.pathsep)):
        file = Path(name).expanduser()
        if not file.is_file():
            yield Finding(
                plugins.VARIABLE,
                Health.BAD,
                f"{plugins.VARIABLE} has {name}, and there is no such file",
                f"correct the path or unset {plugins.VARIABLE}",
            )


def requirement_findings() -> Iterator[Finding]:
    optional = {
        "arms": "the models of ur5e and so101; ./rlfp test",
        "train": "./rlfp train, export and test",
        "dev": "./rlfp test",
    }
    for name, requirements in requirement_sets().items():
        if name == "colcon" or (name == "ros-wheels" and os.environ.get("ROS_DISTRO")):
            continue
        versions, missing = [], []
        for requirement in requirements:
            found = installed_version(requirement.name)
            if found is None or not requirement.specifier.contains(found.partition("+")[0], prereleases=True):
                missing.append((requirement, found))
            else:
                versions.append(f"{requirement.name} {found}")
        if missing:
            words = [
                f"{requirement.name} {f'is {found}' if found else 'is not there'}" for requirement, found in missing
            ]
            health = Health.NOTE if name in optional else Health.BAD
            text = ", ".join(words) + (f" ({optional[name]} installs it)" if name in optional else "")
            yield Finding(name, health, text, install_command([requirement for requirement, _ in missing]))
        else:
            yield Finding(name, Health.OK, ", ".join(versions))


def installed_version(name: str) -> str | None:
    # The window-system build of OpenCV does just as well, and a distribution's carries no metadata under pip's name.
    names = [name, "opencv-python", "opencv-contrib-python", "opencv"] if name == "opencv-python-headless" else [name]
    for candidate in names:
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def _runs(code: str) -> bool:
    """Return whether Python code runs in a process of its own."""
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, capture_output=True, env=child_environment({}), check=False).returncode == 0


def _cv_bridge() -> Finding:
    if _runs("import cv_bridge; cv_bridge.CvBridge().encoding_to_dtype_with_channels('rgb8')"):
        return Finding("cv_bridge", Health.OK, "there, and it runs with this NumPy")
    return Finding("cv_bridge", Health.OK, "not there; the project's own image conversion is used")


def _opengl() -> Finding:
    if _runs("from rlfp_ros.simulation.mujoco_headless import mujoco; mujoco.GLContext(8, 8).make_current()"):
        return Finding("OpenGL", Health.OK, "MuJoCo draws without a display")
    return Finding(
        "OpenGL",
        Health.NOTE,
        "MuJoCo cannot draw: no --world mujoco and no mock hardware; everything else works",
        "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri",
    )


def _shared_memory() -> Finding:
    """Check the shared memory for large images; the check of the environment covers the rest of the graph."""
    if not os.path.isdir("/dev/shm"):
        return Finding("/dev/shm", Health.NOTE, "not there")
    usage = shutil.disk_usage("/dev/shm")
    text = f"{usage.free / 1e6:,.0f} MB free of {usage.total / 1e6:,.0f}"
    if usage.free < dds.LARGE_SEGMENT_BYTES + SHARED_MEMORY_BYTES:
        return Finding("/dev/shm", Health.NOTE, f"{text}; images above 256x256 need 50", "docker run --shm-size=256m")
    return Finding("/dev/shm", Health.OK, text)


def may_run_in_real_time() -> bool:
    """Return whether the system grants this user real-time priority, tried in a thread that ends at once."""
    granted = []

    def ask() -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            granted.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return bool(granted)


def _real_time() -> Finding:
    if not may_run_in_real_time():
        return Finding(
            "real time",
            Health.NOTE,
            "this user may not ask for real-time priority: commands take twice as long after an image",
            f"echo '{os.environ.get('USER', '<user>')} - rtprio 98' | sudo tee /etc/security/limits.d/rlfp.conf",
        )
    return Finding(
        "real time", Health.OK, "the nodes that move the arm run at real-time priority (RLFP_REALTIME=0: they do not)"
    )


def camera_findings(folder: Path = DEVICES) -> Iterator[Finding]:
    """Yield a finding for each webcam; none if there is none, because a graph needs no webcam."""
    for camera in list_cameras(folder):
        if camera.fault:
            fault, _, fix = camera.fault.partition("; ")
            yield Finding(camera.path.name, Health.NOTE, fault, fix)
        else:
            formats = "; ".join(map(str, camera.formats)) or "lists no formats"
            yield Finding(camera.path.name, Health.OK, f"{', '.join(camera.names)}: {formats}")


def _bundles() -> Iterator[Finding]:
    models = paths.share_directory() / "models"
    folders = sorted(path.parent for path in models.glob("*/bundle.yaml"))
    if not folders:
        yield Finding("bundles", Health.NOTE, f"none in {models}", "./rlfp train reach")
    for folder in folders:
        try:
            contract = load_bundle(folder).contract
        except ConfigurationError as error:
            yield Finding(folder.name, Health.BAD, str(error), f"./rlfp inspect {folder}")
        else:
            yield Finding(folder.name, Health.OK, f"task {contract.task}, arm {contract.arm.name}")
