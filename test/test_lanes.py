"""The suite's two lanes: which tests run beside others, and that each test runs once, in its lane."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lanes
import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
import lanes

def pytest_configure(config):
    lanes.configure(config, ["test_a.py", "test_d.py"])
"""
# Each test writes a line: its file, its process, and whether that has idle priority.
TESTS = """
import os, time
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(number):
    time.sleep(SECONDS)
    with open("log", "a") as log:
        log.write(f"{__name__} {os.environ['PYTEST_XDIST_WORKER']} {os.sched_getscheduler(0) == os.SCHED_IDLE}\\n")
    EXTRA
"""


def play(folder: Path, seconds: dict[str, float], extra: str = "") -> tuple[str, list[list[str]]]:
    """Run files of four tests in both lanes; `extra` is for file c. Return the output, and the lines of the log."""
    (folder / "conftest.py").write_text(CONFTEST)
    for name in "abcd":
        text = TESTS.replace("SECONDS", str(seconds.get(name, 0.0))).replace("EXTRA", extra if name == "c" else "")
        (folder / f"test_{name}.py").write_text(text)
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(ROOT / "test")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    return done.stdout + done.stderr, [line.split() for line in (folder / "log").read_text().splitlines()]


def test_each_test_runs_once_and_files_that_only_compute_run_at_idle_priority(tmp_path: Path) -> None:
    output, log = play(tmp_path, {"a": 0.2, "b": 0.1, "c": 0.1, "d": 0.1})
    assert "16 passed" in output, output
    assert Counter(file for file, *_ in log) == dict.fromkeys(("test_a", "test_b", "test_c", "test_d"), 4)
    own = {worker for file, worker, _ in log if file in ("test_b", "test_c")}
    assert len(own) == 1
    first = {worker for file, worker, _ in log if file == "test_a"}
    assert first.isdisjoint(own)
    assert all(idle == "True" for file, _, idle in log if file == "test_a")
    if os.sched_getscheduler(0) != os.SCHED_IDLE:
        assert all(idle == "False" for file, _, idle in log if file in ("test_b", "test_c"))


def test_the_first_process_helps_with_what_the_other_has_not_begun(tmp_path: Path) -> None:
    output, log = play(tmp_path, {"a": 1.0})
    assert "16 passed" in output, output
    workers = {file: {worker for name, worker, _ in log if name == file} for file, *_ in log}
    assert workers["test_d"] == workers["test_b"] == workers["test_c"] != workers["test_a"]


def test_another_process_continues_for_one_that_died(tmp_path: Path) -> None:
    output, log = play(tmp_path, {"a": 0.2, "d": 0.2}, "if number == 1: os._exit(1)")
    assert "1 failed, 15 passed" in output, output
    assert "crashed while running" in output
    assert Counter(file for file, *_ in log) == dict.fromkeys(("test_a", "test_b", "test_c", "test_d"), 4)
    apart = {worker for file, worker, _ in log if file == "test_a"}
    assert apart.isdisjoint(worker for file, worker, _ in log if file in ("test_b", "test_c"))


@pytest.mark.parametrize("name", lanes.APART)
def test_a_file_that_runs_beside_others_needs_no_real_time(name: str) -> None:
    text = (ROOT / "test" / name).read_text("utf-8")
    for word in ("mark.graph", "start_node", "test_node", "wait_until"):
        assert word not in text
