"""Tests that a runner ends every process in time: on `stop`, after errors, after signals, and if it is killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from runner_nodes import (
    IGNORES_SIGINT_AND_SIGTERM,
    LIMIT_S,
    ROOT,
    STOP_LIMIT_S,
    WELL_BEHAVED,
    Runner,
    gone,
    node,
    resolved,
    wait_until,
    wait_until_up,
)

from rlfp_ros.graph import runner as runner_module
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.sim import SIM

pytestmark = pytest.mark.usefixtures("own_domain")


def test_stop_ends_a_hung_node_within_three_seconds_and_reports_it() -> None:
    stream = io.StringIO()
    nodes = resolved(node("hung", IGNORES_SIGINT_AND_SIGTERM), node("policy", WELL_BEHAVED))
    with Runner(nodes, stream=stream) as runner:
        wait_until_up(runner, "hung", "policy")
        pids = list(runner.pids().values())
        started = time.monotonic()
        runner.stop()
        assert time.monotonic() - started < STOP_LIMIT_S
        assert gone(pids)
    assert "hung did not end after SIGINT and SIGTERM and was killed" in stream.getvalue()


def test_well_behaved_nodes_end_at_once() -> None:
    with Runner(resolved(*(node(f"n{i}", WELL_BEHAVED) for i in range(4))), stream=io.StringIO()) as runner:
        wait_until_up(runner, "n0", "n1", "n2", "n3")
        started = time.monotonic()
        runner.stop()
        assert time.monotonic() - started < 1.0


def test_processes_that_a_node_started_end_with_it_even_in_sessions_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    program = textwrap.dedent(
        f"""
        import subprocess, sys, time
        own = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], start_new_session=True)
        same = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        open({str(file)!r}, "w").write(f"{{own.pid}} {{same.pid}}")
        print("up", flush=True)
        time.sleep(60)
        """
    )
    with Runner(resolved(node("policy", program)), stream=io.StringIO()) as runner:
        wait_until_up(runner, "policy")
        runner.stop()
    pids = [int(pid) for pid in file.read_text().split()]
    wait_until(lambda: gone(pids), "the end of the grandchildren")


def test_error_in_the_with_block_leaves_no_process() -> None:
    pids: list[int] = []

    def fail_while_it_runs() -> None:
        with Runner(resolved(node("policy", WELL_BEHAVED)), stream=io.StringIO()) as runner:
            wait_until_up(runner, "policy")
            pids.extend(runner.pids().values())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_it_runs()
    assert len(pids) == 1
    assert gone(pids)


PROGRAM = """
import sys, time
sys.path.insert(0, {folder!r})
from runner_nodes import IGNORES_SIGINT_AND_SIGTERM, WELL_BEHAVED, Runner, command, node, resolved
children = resolved(node("policy", WELL_BEHAVED), node("hung", IGNORES_SIGINT_AND_SIGTERM))
with Runner(children) as runner:
    while not all("up" in runner.tail(name) for name in ("policy", "hung")):
        time.sleep(0.01)
    print(*runner.pids().values(), flush=True)
    sys.exit(runner.wait())
"""


@pytest.fixture
def runner_process() -> Any:
    """A runner in its own process, and the pids of its two children, one of which ignores SIGINT and SIGTERM."""
    with reserved_domain() as domain:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(folder=str(Path(__file__).parent))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "ROS_DOMAIN_ID": str(domain)},
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            pids = [int(pid) for pid in process.stdout.readline().split()]
            assert len(pids) == 2
            yield process, pids
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_to_the_runner_ends_every_child_in_time(runner_process: Any, number: signal.Signals) -> None:
    process, pids = runner_process
    started = time.monotonic()
    process.send_signal(number)
    assert process.wait(LIMIT_S) == 128 + number
    assert time.monotonic() - started < STOP_LIMIT_S + 0.5  # and the end of a Python process
    assert gone(pids)


def test_second_signal_kills_without_waiting(runner_process: Any) -> None:
    process, pids = runner_process
    process.send_signal(signal.SIGINT)
    time.sleep(runner_module.SAME_SIGNAL_S + 0.05)
    assert not gone(pids[1:])
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(LIMIT_S)
    assert time.monotonic() - started < 1.0
    assert gone(pids)
    assert "hung did not end after SIGINT and was killed" in process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_that_arrives_twice_leaves_nodes_their_time_to_close(number: signal.Signals, tmp_path: Path) -> None:
    """A parent or `timeout` passes one Ctrl-C on, 20 ms after the terminal's own."""
    bag = tmp_path / "metadata"
    recorder = (
        "import signal, sys, time\n"
        f"def close(*_):\n    time.sleep(0.6); open({str(bag)!r}, 'w').write('whole'); sys.exit(0)\n"
        "signal.signal(signal.SIGINT, close)\nprint('up', flush=True)\ntime.sleep(60)"
    )
    program = (
        f"import sys, time\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from runner_nodes import Runner, node, resolved\n"
        f"with Runner(resolved(node('recorder', {recorder!r}))) as runner:\n"
        "    while 'up' not in runner.tail('recorder'):\n        time.sleep(0.01)\n"
        "    print('up', flush=True)\n    sys.exit(runner.wait())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    time.sleep(0.02)
    process.send_signal(number)
    _, shown = process.communicate(timeout=LIMIT_S)
    assert bag.read_text() == "whole"
    assert "killed" not in shown
    assert process.returncode == 128 + number


def test_killed_runner_leaves_no_orphan(runner_process: Any) -> None:
    process, pids = runner_process
    process.kill()
    process.wait()
    wait_until(lambda: gone(pids), "the end of the children")


@pytest.mark.parametrize("after_s", [0.05, 0.4, 1.2])
def test_a_graph_that_is_interrupted_while_its_nodes_start_ends_without_tracebacks(after_s: float) -> None:
    with reserved_domain() as domain:
        nodes = resolve(SIM, {"transport": "local", "domain_id": str(domain)})
        stream = io.StringIO()
        with runner_module.Runner(nodes, handle_signals=False, stream=stream) as runner:
            time.sleep(after_s)  # Python starts, imports, constructs
            started = time.monotonic()
            runner.stop()
            assert time.monotonic() - started < STOP_LIMIT_S
    assert "Traceback" not in stream.getvalue()
    assert "KeyboardInterrupt" not in stream.getvalue()
