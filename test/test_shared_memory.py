"""Tests of what killed ROS processes leave in /dev/shm."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlfp_ros.graph import shared_memory
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.shared_memory import FOLDER, remove_leftovers

PARTICIPANT = """
import rclpy
rclpy.init()
node = rclpy.create_node("participant")
print("up", flush=True)
rclpy.spin(node)
"""


def start_participant(domain: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARTICIPANT],
        env={**os.environ, "ROS_DOMAIN_ID": str(domain)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    return process


def ports(domain: int) -> set[Path]:
    return {
        path
        for port in shared_memory.ports(domain)
        for path in FOLDER.glob(f"*fastrtps_port{port}*")
        if path.name.removeprefix("sem.").startswith(f"fastrtps_port{port}")
    }


def segments() -> set[Path]:
    return {path for path in FOLDER.glob("fastrtps_*") if not path.name.startswith("fastrtps_port")}


def test_files_of_a_killed_participant_go_and_those_of_a_living_one_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "YOUNG_PORT_S", 0.0)
    monkeypatch.setattr(shared_memory, "YOUNG_SEGMENT_S", 0.0)
    with reserved_domain() as domain:
        before = segments()
        first = start_participant(domain)
        living, living_ports = segments() - before, ports(domain)
        second = start_participant(domain)
        try:
            both = segments() - before
            second.kill()
            second.wait()
            remove_leftovers(domain)
            assert living
            assert len(both) == 2 * len(living)
            assert segments() & both == living
            assert living_ports
            # Those of the other one may be removed at any time by the one that lives.
            assert ports(domain) >= living_ports
        finally:
            first.kill()
            first.wait()
        remove_leftovers(domain)
        assert not segments() & both
        assert not ports(domain)


@pytest.mark.parametrize("kind", ["port7400", "0123456789abcdef"])
def test_young_files_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    names = {f"fastrtps_{kind}", f"fastrtps_{kind}_{'sl' if kind.startswith('port') else 'el'}"}
    for name in names:
        (tmp_path / name).touch()
    assert remove_leftovers(0) == 0
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    assert remove_leftovers(0) == 2


@pytest.mark.parametrize("held", ["fastrtps_port7400_sl", "fastrtps_port7411_el"])
def test_ports_of_a_domain_stay_while_a_lock_is_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: str
) -> None:
    """With a discovery server, no participant has the discovery port."""
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    for name in ("fastrtps_port7400", "fastrtps_port7411", held):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    with (tmp_path / held).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert remove_leftovers(0) == 0
    assert remove_leftovers(0) == 3


def test_other_files_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    names = {"fastrtps_mine_el", "fastrtps_port7650", "other"}  # 7650: domain 1
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    assert remove_leftovers(0) == 0
    assert {path.name for path in tmp_path.iterdir()} == names
    assert remove_leftovers(1) == 1


def test_a_reserved_domain_is_free_of_leftovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "YOUNG_PORT_S", 0.0)
    with reserved_domain() as domain:
        process = start_participant(domain)
        process.kill()
        process.wait()
        assert ports(domain)
    monkeypatch.setattr("random.SystemRandom.sample", lambda *_: [domain])
    with reserved_domain() as again:
        assert again == domain
        assert not ports(domain)
