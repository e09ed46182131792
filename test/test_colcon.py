"""Tests of `colcon build` with colcon from PyPI: the installed files, and that the package works from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from bootstrap_script import load_bootstrap
from source_copy import copy_source

from rlfp_ros.requirements import requirement_sets

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-colcon"  # colcon needs an older setuptools than torch: an environment of its own
DATA = ("launch", "config", "models", "sim")

pytestmark = pytest.mark.timeout(300)  # the first run installs colcon


def in_clean_shell(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run bash without the variables of this test's own environment, which would help the build."""
    mine = ("PYTHONPATH", "AMENT_", "COLCON_", "LD_LIBRARY_PATH", "_ROS_WHEELS_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env={**clean, "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="session")
def colcon() -> None:
    """colcon in `.venv-colcon`, made the way ./rlfp makes environments: once, and again when setup.cfg changes."""
    load_bootstrap().install(ENVIRONMENT, ("colcon",))


@pytest.fixture(scope="session", params=["", "--symlink-install"], ids=["install", "symlink-install"])
def workspace(request: Any, colcon: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colcon workspace with this package built in it."""
    folder = tmp_path_factory.mktemp("workspace")
    copy_source(folder / "src" / "rlfp_ros")
    built = in_clean_shell(f"colcon build {request.param}", folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_package_is_built_as_ament_python(workspace: Path) -> None:
    """Only colcon's ament_python task writes this hook; a plain Python package would be missing from the ament path."""
    assert (workspace / "install/rlfp_ros/share/rlfp_ros/hook/ament_prefix_path.dsv").is_file()


def test_every_data_file_lies_in_share_as_in_the_source_tree(workspace: Path) -> None:
    share = workspace / "install" / "rlfp_ros" / "share" / "rlfp_ros"
    source = workspace / "src" / "rlfp_ros"
    expected = {path.relative_to(source) for top in DATA for path in (source / top).rglob("*") if path.is_file()}
    installed = {path.relative_to(share) for top in DATA for path in (share / top).rglob("*") if path.is_file()}
    assert installed == expected
    assert {Path("launch/sim.launch.py"), Path("config/arms/panda.yaml")} <= installed
    for path in installed:
        assert (share / path).read_bytes() == (source / path).read_bytes()
    assert (share / "package.xml").is_file()
    assert (share.parent / "ament_index" / "resource_index" / "packages" / "rlfp_ros").is_file()


def test_ros2_run_finds_every_executable(workspace: Path) -> None:
    folder = workspace / "install" / "rlfp_ros" / "lib" / "rlfp_ros"
    names = {path.name for path in folder.iterdir() if os.access(path, os.X_OK)}
    assert names == {
        "rlfp",
        "simulator",
        "perception",
        "policy",
        "residual_controller",
        "recorder",
        "arm_twin",
        "arm_driver",
        "camera",
        "checklist",
        "operator",
        "operator_terminal",
    }


def test_installed_command_runs_and_launch_files_are_on_the_ament_path(workspace: Path) -> None:
    command = "source install/setup.bash && install/rlfp_ros/lib/rlfp_ros/rlfp --version && echo $AMENT_PREFIX_PATH"
    done = in_clean_shell(command, workspace)
    assert done.returncode == 0, done.stderr
    version, prefix = done.stdout.splitlines()
    assert version == "rlfp_ros 0.2.0"
    assert (Path(prefix) / "share" / "rlfp_ros" / "launch" / "sim.launch.py").is_file()


def test_installed_package_reads_its_data_from_share_and_resolves_the_graph(workspace: Path) -> None:
    program = (
        "import rlfp_ros\nfrom rlfp_ros import paths\nfrom rlfp_ros.control.arm import load_arm\n"
        "from rlfp_ros.graph.resolution import resolve\nfrom rlfp_ros.graph.sim import SIM\n"
        "print(rlfp_ros.__file__)\nprint(paths.share_directory())\nprint(load_arm('panda').name)\n"
        "print(*(p.name for p in resolve(SIM, {}, check=False).processes))\n"
    )
    command = f'source install/setup.bash && "{sys.executable}" -P -c "$PROGRAM"'
    done = in_clean_shell(command, workspace, PROGRAM=program)
    assert done.returncode == 0, done.stderr
    package, share, arm, nodes = done.stdout.splitlines()
    assert package.startswith(str(workspace))
    assert share.startswith(str(workspace))
    assert arm == "panda"
    assert nodes == "simulator perception policy residual_controller"


def test_package_xml_is_format_3_and_lists_the_packages_that_nodes_import() -> None:
    root = ElementTree.parse(ROOT / "package.xml").getroot()
    assert root.get("format") == "3"
    assert root.findtext("export/build_type") == "ament_python"
    declared = {element.text for element in root.findall("exec_depend")}
    imported = set()
    for path in (ROOT / "rlfp_ros" / "nodes").glob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["from"], ["import"]) and len(words) > 1:
                imported.add(words[1].partition(".")[0])
    ours = {name for name in imported if name.endswith(("_msgs", "_srvs", "_interfaces"))}
    assert ours | {"rclpy", "cv_bridge"} <= declared


def test_versions_agree() -> None:
    import rlfp_ros

    assert ElementTree.parse(ROOT / "package.xml").getroot().findtext("version") == rlfp_ros.__version__


def test_package_xml_names_every_requirement_of_a_robot_and_of_the_simulators() -> None:
    """By its rosdep key, or in the comment that lists what has none."""
    keys = {"PyYAML": "python3-yaml", "pin": "pinocchio", "opencv-python-headless": "opencv", "pillow": "python3-pil"}
    text = (ROOT / "package.xml").read_text()
    sets = requirement_sets()
    names = [requirement.name for name in ("core", "sim") for requirement in sets[name]]
    assert {"zstandard", "mujoco", "numpy"} <= set(names)
    assert [name for name in names if keys.get(name, name) not in text] == []
