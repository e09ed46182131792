"""Tests that environment variables are refused if nodes could not start or not find each other with them."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from rlfp_ros.graph import shared_memory
from rlfp_ros.graph.environment_check import Problem, problems

ROOT = Path(__file__).resolve().parents[1]
Usage = namedtuple("Usage", "total used free")


def found(tmp_path: Path, transport: str = "lan", **variables: str) -> list[Problem]:
    return list(problems({"HOME": str(tmp_path), **variables}, transport))


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_plain_environment_has_no_problem(tmp_path: Path) -> None:
    assert found(tmp_path) == []
    assert found(tmp_path, ROS_DOMAIN_ID="232", RMW_IMPLEMENTATION="rmw_fastrtps_cpp") == []
    assert found(tmp_path, ROS_STATIC_PEERS="127.0.0.1;localhost", FASTDDS_BUILTIN_TRANSPORTS="LARGE_DATA?x=1") == []
    assert found(tmp_path, ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST", ROS_SECURITY_ENABLE="false") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROS_DOMAIN_ID", "abc"),
        ("ROS_DOMAIN_ID", "233"),
        ("ROS_DOMAIN_ID", "-1"),
        ("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp"),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF"),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "EVERYWHERE"),
        ("ROS_SECURITY_ENABLE", "true"),
        ("ROS_LOG_DIR", "/dev/null/logs"),
        ("ROS_LOG_DIR", "/proc/logs"),
        ("ROS_HOME", "/proc/ros"),
        ("ROS_STATIC_PEERS", "127.0.0.1:7400"),
        ("FASTRTPS_DEFAULT_PROFILES_FILE", "/no/such/profile.xml"),
        ("FASTDDS_BUILTIN_TRANSPORTS", "UDP"),
    ],
)
def test_wrong_value_is_one_sentence_that_names_the_variable(name: str, value: str, tmp_path: Path) -> None:
    (problem,) = found(tmp_path, **{name: value})
    assert problem.name == name
    assert problem.text.startswith(f"{name} is ")
    assert problem.fix
    assert "\n" not in str(problem)


def test_home_is_needed_unless_the_log_folder_is_given(tmp_path: Path) -> None:
    (problem,) = problems({})
    assert problem.text == "HOME is not set, and ROS 2 writes its log files below it"
    assert list(problems({"ROS_LOG_DIR": str(tmp_path / "new")})) == []


def test_discovery_server_without_a_process_differs_from_one_that_may_listen(tmp_path: Path) -> None:
    server = f"127.0.0.1:{free_port()}"
    (problem,) = found(tmp_path, ROS_DISCOVERY_SERVER=server)
    assert f"no discovery server answers at {server}" in problem.text
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        assert found(tmp_path, ROS_DISCOVERY_SERVER=f"127.0.0.1:{listening.getsockname()[1]}") == []
    (problem,) = found(tmp_path, transport="local", ROS_DISCOVERY_SERVER=server)
    assert "transport local" in problem.text


def test_security_needs_a_keystore_and_an_installed_ros(tmp_path: Path) -> None:
    (problem,) = found(tmp_path, ROS_SECURITY_ENABLE="true", ROS_SECURITY_KEYSTORE=str(tmp_path / "none"))
    assert "no such folder" in problem.text
    (problem,) = found(tmp_path, ROS_SECURITY_ENABLE="true", ROS_SECURITY_KEYSTORE=str(tmp_path))
    assert "no security plugins" in problem.text
    assert found(tmp_path, ROS_SECURITY_ENABLE="true", ROS_SECURITY_KEYSTORE=str(tmp_path), ROS_DISTRO="jazzy") == []


@pytest.mark.parametrize("package", ["rclpy", "sensor_msgs"])
def test_packages_of_another_ros_on_the_python_path_are_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / package).mkdir(parents=True)
    (tmp_path / "other" / package / "__init__.py").write_text("raise RuntimeError('of another Python')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    monkeypatch.delitem(sys.modules, package, raising=False)
    (problem,) = found(tmp_path, PYTHONPATH=str(tmp_path / "other"))
    assert problem.name == "PYTHONPATH"
    assert f"{tmp_path / 'other'}, whose {package}" in problem.text
    assert found(tmp_path, PYTHONPATH=str(tmp_path / "other"), ROS_DISTRO="jazzy") == []


def test_full_shared_memory_is_found_before_it_kills_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64_000_000, 63_000_000, 1_000_000))
    (problem,) = found(tmp_path)
    assert problem.text == "/dev/shm has 1.0 MB free, and the graph needs 16 MB"


def test_ports_that_another_user_left_are_found_in_their_domain_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "shm"
    memory.mkdir()
    (memory / "fastrtps_port8412").touch()  # domain 4
    (memory / "fastrtps_0123456789abcdef").touch()  # a segment is no port
    monkeypatch.setattr(shared_memory, "FOLDER", memory)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    monkeypatch.setattr(os, "access", lambda path, mode: "fastrtps" not in str(path))
    assert stat.S_ISREG((memory / "fastrtps_port8412").stat().st_mode)
    (problem,) = found(tmp_path, ROS_DOMAIN_ID="4")
    assert "1 Fast DDS files of user" in problem.text
    assert "fastrtps_port8412" in problem.text
    assert found(tmp_path, ROS_DOMAIN_ID="5") == []


@pytest.mark.parametrize("command", [["launch", "sim.launch.py"], ["demo", "--episodes", "1"]])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp"),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF"),
        ("ROS_DISCOVERY_SERVER", "127.0.0.1:9"),
        ("HOME", ""),
    ],
)
def test_commands_end_with_one_line_and_start_nothing(
    command: list[str], name: str, value: str, tmp_path: Path
) -> None:
    where = ["--out", str(tmp_path / "out")] if command[0] == "demo" else []
    done = subprocess.run(
        [sys.executable, "-P", "-m", "rlfp_ros.cli", *command, *where],
        env={**os.environ, "PYTHONPATH": str(ROOT), name: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("rlfp: ")
    assert name in done.stderr
    assert done.stderr.count("\n") == 1


def test_bad_domain_is_one_line_without_the_traces_of_nodes() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "rlfp_ros.cli", "launch", "sim.launch.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ROS_DOMAIN_ID": "abc"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "rlfp: ROS_DOMAIN_ID is 'abc', expected a number from 0 to 232; set such a number or unset it\n"
    )
