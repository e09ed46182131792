"""Tests of the process runner with real child processes: all of them end, and every end is reported."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlfp_ros.graph import runner as runner_module
from rlfp_ros.graph.description import Graph, NodeProcess, OnExit, Resolved, Respawn
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.sim import SIM
from rlfp_ros.schema import ConfigurationError  # noqa: F401 - for the programs below

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 20.0  # for events that take milliseconds on an idle machine
STOP_LIMIT_S = 3.0  # what the runner promises

# Stands in for a node: says that it is up, then waits for a signal.
WELL_BEHAVED = "import time; print('up', flush=True)\ntime.sleep(60)"
IGNORES_SIGINT_AND_SIGTERM = (
    "import signal, time\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True)\ntime.sleep(60)"
)


def node(name: str, program: str, on_exit: OnExit = OnExit.FAIL, respawn: Respawn | None = None) -> NodeProcess:
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
    return [sys.executable, "-S", "-u", "-c", process.executable]  # -S: no start-up hooks, starts in 15 ms


def Runner(*arguments: Any, **options: Any) -> runner_module.Runner:
    return runner_module.Runner(*arguments, **{"command": command, **options})


def resolved(*nodes: NodeProcess) -> Resolved:
    return Resolved(Graph("test", "", (), ()), {}, nodes)


@pytest.fixture(autouse=True)
def _own_domain(monkeypatch: pytest.MonkeyPatch) -> Any:
    with reserved_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        yield


def wait_until(condition: Callable[[], bool], what: str, limit: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {limit} s"
        time.sleep(0.005)


def wait_until_up(runner: runner_module.Runner, *names: str) -> None:
    wait_until(lambda: all("up" in runner.tail(name) for name in names), f"start of {names}")


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


# --- how a run ends --------------------------------------------------------------------------------------------------


def test_regular_end_of_the_finishing_node_ends_all_others_with_code_0() -> None:
    simulator = node("simulator", "import time; time.sleep(0.2)", OnExit.FINISH)
    with Runner(resolved(simulator, node("policy", WELL_BEHAVED)), stream=io.StringIO()) as runner:
        wait_until_up(runner, "policy")
        pids = list(runner.pids().values())
        assert runner.wait(LIMIT_S) == 0
        assert gone(pids)
    assert runner.failure is None


def test_required_node_that_fails_ends_the_run_with_its_code_and_last_lines() -> None:
    stream = io.StringIO()
    broken = node("policy", "print('loading'); print('models/x: no such file'); raise SystemExit(7)")
    with Runner(resolved(node("simulator", WELL_BEHAVED), broken), console="quiet", stream=stream) as runner:
        assert runner.wait(LIMIT_S) == 7
    shown = stream.getvalue()
    assert "policy ended with exit code 7" in shown
    assert "models/x: no such file" in shown


def test_finishing_node_that_fails_ends_the_run_with_its_code() -> None:
    with Runner(resolved(node("simulator", "raise SystemExit(2)", OnExit.FINISH)), stream=io.StringIO()) as runner:
        assert runner.wait(LIMIT_S) == 2


def test_required_node_that_ends_early_with_0_is_still_a_failure() -> None:
    with Runner(resolved(node("policy", "pass"), node("simulator", WELL_BEHAVED)), stream=io.StringIO()) as runner:
        assert runner.wait(LIMIT_S) == 1
    assert runner.failure is not None


def test_killed_required_node_ends_the_run_with_128_plus_signal() -> None:
    nodes = resolved(node("simulator", WELL_BEHAVED), node("residual_controller", WELL_BEHAVED))
    with Runner(nodes, stream=io.StringIO()) as runner:
        wait_until_up(runner, "simulator", "residual_controller")
        os.kill(runner.pids()["residual_controller"], signal.SIGKILL)
        assert runner.wait(LIMIT_S) == 128 + signal.SIGKILL
    assert runner.failure is not None
    assert "SIGKILL" in runner.failure


def test_the_end_of_an_optional_node_is_reported_and_the_run_continues() -> None:
    stream = io.StringIO()
    nodes = resolved(node("recorder", "raise SystemExit(1)", OnExit.CONTINUE), node("policy", WELL_BEHAVED))
    with Runner(nodes, stream=stream) as runner:
        wait_until(lambda: "continues without it" in stream.getvalue(), "the notice")
        wait_until_up(runner, "policy")
        assert runner.poll() is None
        assert runner.stop() == 0


def test_program_that_does_not_exist_is_a_failure_and_leaves_nothing() -> None:
    def missing(process: NodeProcess, path: Path) -> list[str]:
        return ["/nonexistent/program"] if process.name == "policy" else command(process, path)

    nodes = resolved(node("simulator", WELL_BEHAVED), node("policy", ""))
    with Runner(nodes, command=missing, stream=io.StringIO()) as runner:
        assert runner.wait(LIMIT_S) == 1
    assert runner.failure is not None
    assert "policy: cannot be started" in runner.failure


# --- respawn ---------------------------------------------------------------------------------------------------------


def test_respawned_node_comes_back_until_its_attempts_are_used_up() -> None:
    stream = io.StringIO()
    respawn = Respawn(attempts=2, delay_s=0.01, factor=2.0)
    with Runner(resolved(node("policy", "print('up'); raise SystemExit(3)", respawn=respawn)), stream=stream) as runner:
        assert runner.wait(LIMIT_S) == 3
        assert runner.tail("policy").count("up") == 3
    assert runner.restarts == {"policy": 2}
    assert "restart 2 of 2 in 0.02 s" in stream.getvalue()


def test_node_killed_once_comes_back_and_the_others_do_not_notice() -> None:
    nodes = resolved(node("policy", WELL_BEHAVED, respawn=Respawn(delay_s=0.01)), node("simulator", WELL_BEHAVED))
    with Runner(nodes, stream=io.StringIO()) as runner:
        wait_until_up(runner, "policy", "simulator")
        before = runner.pids()
        os.kill(before["policy"], signal.SIGKILL)
        wait_until(lambda: runner.tail("policy").count("up") == 2, "the restart")
        assert runner.pids()["simulator"] == before["simulator"]
        assert runner.pids()["policy"] != before["policy"]
        assert runner.poll() is None


def test_configuration_error_is_not_tried_again() -> None:
    with Runner(
        resolved(node("policy", "raise SystemExit(2)", respawn=Respawn(delay_s=0.01))), stream=io.StringIO()
    ) as runner:
        assert runner.wait(LIMIT_S) == 2
    assert runner.restarts == {}


def test_delay_grows_to_its_limit() -> None:
    respawn = Respawn(delay_s=1.0, factor=2.0, max_delay_s=5.0)
    assert [respawn.delay(attempt) for attempt in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 5.0]


# --- stopping --------------------------------------------------------------------------------------------------------


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


# --- the runner as a process of its own ------------------------------------------------------------------------------

PROGRAM = """
import sys, time
sys.path.insert(0, {folder!r})
from test_runner import IGNORES_SIGINT_AND_SIGTERM, WELL_BEHAVED, Runner, command, node, resolved
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
        "from test_runner import Runner, node, resolved\n"
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


# --- output ----------------------------------------------------------------------------------------------------------


def test_lines_of_two_nodes_are_never_mixed_and_carry_their_names(tmp_path: Path) -> None:
    # Halves of lines, written and flushed apart.
    program = (
        "import sys\nfor i in range(200):\n"
        "    sys.stdout.write('{0}' * 40); sys.stdout.flush(); sys.stdout.write('{0}' * 40 + '\\n'); sys.stdout.flush()"
    )
    stream, log = io.StringIO(), tmp_path / "run.log"
    nodes = resolved(
        node("a", program.format("a"), OnExit.CONTINUE),
        node("bb", program.format("b"), OnExit.CONTINUE),
        node("simulator", "import time; time.sleep(60)", OnExit.FINISH),
    )
    with Runner(nodes, stream=stream, log_file=log) as runner:
        wait_until(lambda: stream.getvalue().count("continues without it") == 2, "the end of both")
        runner.stop()
    lines = stream.getvalue().splitlines()
    assert lines.count(f"{'a':<9} | " + "a" * 80) == 200
    assert lines.count(f"{'bb':<9} | " + "b" * 80) == 200
    assert log.read_text().count("a" * 80) == 200
    assert "\x1b" not in stream.getvalue(), "colours only on a terminal"


def test_quiet_run_prints_nothing_but_the_caller_hears_every_line() -> None:
    stream, heard = io.StringIO(), []
    simulator = node("simulator", "print('episode 1'); print('episode 2')", OnExit.FINISH)
    with Runner(
        resolved(simulator), console="quiet", stream=stream, on_line=lambda name, line: heard.append((name, line))
    ) as runner:
        runner.wait(LIMIT_S)
    assert heard[:2] == [("simulator", "episode 1"), ("simulator", "episode 2")]
    assert stream.getvalue() == ""


def test_last_line_without_newline_and_bytes_that_are_no_text_are_shown() -> None:
    stream = io.StringIO()
    program = "import os; os.write(1, b'bad \\xff byte\\nno newline')"
    with Runner(resolved(node("policy", program, OnExit.FINISH)), stream=stream) as runner:
        assert runner.wait(LIMIT_S) == 0
    assert "bad \ufffd byte" in stream.getvalue()
    assert "no newline" in stream.getvalue()


# --- two graphs ------------------------------------------------------------------------------------------------------


def test_second_graph_in_the_same_domain_is_refused_with_one_sentence() -> None:
    nodes = resolved(node("policy", WELL_BEHAVED))
    with Runner(nodes, stream=io.StringIO()):
        program = (
            "import io\nfrom test_runner import *\n"
            "try:\n    Runner(resolved(node('policy', '')), stream=io.StringIO()).__enter__()\n"
            "except ConfigurationError as error:\n    print(error)\n"
        )
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60, check=False
        )
    assert f"ROS_DOMAIN_ID {os.environ['ROS_DOMAIN_ID']}: another rlfp_ros graph runs there" in done.stdout
    assert str(os.getpid()) in done.stdout
    with Runner(nodes, stream=io.StringIO()):
        pass  # the lock went with the first graph


def test_reserved_domains_differ_and_are_free_again_afterwards() -> None:
    with reserved_domain() as first, reserved_domain() as second:
        assert first != second
        assert min(first, second) >= 10
        assert max(first, second) <= 101


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
