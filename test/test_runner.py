"""Tests of the process runner with real child processes: how a run ends, which nodes start again, and what is shown."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runner_nodes import LIMIT_S, ROOT, WELL_BEHAVED, Runner, command, gone, node, resolved, wait_until, wait_until_up

from rlfp_ros.graph.description import NodeProcess, OnExit, Respawn
from rlfp_ros.graph.domains import reserved_domain

pytestmark = pytest.mark.usefixtures("own_domain")

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
            "import io\nfrom runner_nodes import Runner, node, resolved\n"
            "from rlfp_ros.schema import ConfigurationError\n"
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
