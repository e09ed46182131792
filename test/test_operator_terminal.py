"""Tests of `./rlfp operate --terminal` in a terminal of its own, with the real-arm graph on mock hardware."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TestNode
from rich.console import Console

from rlfp_ros import cli
from rlfp_ros.commissioning.checklist import ChecklistReport, Line
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.runner import Runner
from rlfp_ros.operator.action import Action
from rlfp_ros.operator.terminal import QUIT_S, Keyboard, OperatorTerminal, keyboard

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 60.0  # a loaded machine brings the graph up in 20 s
ACTIVE = SafetyState(state=State.ACTIVE, gain=1.0)
STOPPED = SafetyState(state=State.STOPPED, reasons=("estop",))
DISABLED = SafetyState(state=State.DISABLED, reasons=("not_enabled",))


# --- without ROS -----------------------------------------------------------------------------------------------------


def shown(terminal: OperatorTerminal) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(terminal.view())
    return stream.getvalue()


def test_heartbeat_ends_with_a_stop_until_the_arm_is_stopped() -> None:
    terminal = OperatorTerminal()
    beats = [terminal.beats]
    terminal.on_state(ACTIVE)
    assert terminal.press(" ", 0.0) is Action.STOP
    beats.append(terminal.beats)
    for state in (ACTIVE, STOPPED):
        terminal.on_state(state)
        beats.append(terminal.beats)
    assert beats == [True, False, False, True]


def test_quitting_waits_for_the_disabled_arm_but_not_forever() -> None:
    terminal = OperatorTerminal()
    terminal.on_state(ACTIVE)
    assert not terminal.has_ended(0.0)
    assert terminal.press("q", 10.0) is Action.QUIT
    assert terminal.press("q", 10.1) is None
    assert terminal.beats  # the arm comes to rest as after `disable`, not as after a lost operator
    assert not terminal.has_ended(10.1)
    assert terminal.has_ended(10.0 + QUIT_S + 0.01)
    terminal.on_state(DISABLED)
    assert terminal.has_ended(10.1)


def test_view_shows_state_reasons_red_lines_and_answers() -> None:
    terminal = OperatorTerminal()
    assert "nothing comes on safety/state" in shown(terminal)
    assert terminal.press("x", 0.0) is None
    terminal.on_state(STOPPED)
    lines = (Line(name="camera", ok=True, found="84x84"), Line(name="home", ok=False, found="far", fix="bring it home"))
    terminal.on_checklist(ChecklistReport(lines=lines))
    terminal.on_answer(Action.ENABLE, False, "stopped by estop")
    text = shown(terminal)
    for words in ("STOPPED  estop", "1 not green", "home: far; bring it home", "enable refused: stopped by estop"):
        assert words in text
    assert "84x84" not in text


def test_keyboard_gives_single_keys_and_notices_a_closed_terminal() -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with keyboard(slave) as keys:
        assert list(keys.pressed()) == []
        os.write(master, b"e ")
        time.sleep(0.05)
        assert list(keys.pressed()) == ["e", " "]
        assert not keys.is_lost
    assert termios.tcgetattr(slave) == before
    os.close(master)
    keys = Keyboard(slave)
    assert list(keys.pressed()) == []
    assert keys.is_lost
    os.close(slave)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["robot_ip:=10.0.0.1"], "operate: has no argument robot_ip; it has: namespace, domain_id, transport"),
        (["domain_id:=500"], "domain_id is '500'"),
        ([], "operate: standard input is not a terminal"),
    ],
)
def test_operate_refuses_unsupported_options(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert cli.main(["operate", "--terminal", *words]) == 2
    assert expected in capsys.readouterr().err


# --- on the real graph -----------------------------------------------------------------------------------------------


class Terminal:
    """The command in a pseudo-terminal, which it controls as a shell's child controls a window."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rlfp_ros.cli", "operate", "--terminal", "transport:=local"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "160"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._output = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 4096):
                self._output += data

    @property
    def output(self) -> str:
        return self._output.decode(errors="replace")

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())

    def close_window(self) -> None:
        os.close(self.master)
        self.master = -1

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.master >= 0:
            os.close(self.master)


class Person:
    """Sees the state on its topic and presses keys."""

    def __init__(self, node: TestNode, terminal: Terminal) -> None:
        from rlfp_ros.nodes import messages

        self.node, self.terminal = node, terminal
        self._states = node.listen(messages.SAFETY_STATE)

    def state(self) -> dict[str, Any]:
        newest: dict[str, Any] = json.loads(self._states[-1].data) if self._states else {"state": "none", "reasons": []}
        return newest

    def until(self, state: str, key: str = "", reason: str = "") -> None:
        """Wait for a state; press `key` again every second until it is reached."""
        pressed = 0.0

        def reached() -> bool:
            nonlocal pressed
            found = self.state()
            if found["state"] == state and (not reason or reason in found["reasons"]):
                return True
            if key and time.monotonic() - pressed > 1.0:
                pressed = time.monotonic()
                self.terminal.press("r" if found["state"] == "STOPPED" and key == "e" else key)
            return False

        try:
            self.node.spin_until(reached, LIMIT_S)
        except AssertionError:
            raise AssertionError(f"{state} {reason}: found {self.state()}, {self.terminal.output[-2000:]}") from None


# Only the operator stops the arm here, not a busy machine; and it is enabled where the test before left it.
PATIENT = """
checklist:
  ros__parameters: {home_tolerance_rad: 3.0, camera_max_age_s: 4.0, joint_max_age_s: 0.7}
residual_controller:
  ros__parameters: {joint_state_max_age_s: 0.8, joint_state_timeout_s: 0.8, percept_timeout_s: 1.0,
                    residual_fade_s: 0.5, residual_timeout_s: 1.0, residual_max_age_s: 2.0}
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The real-arm graph on mock hardware, in this process's domain."""
    parameters = tmp_path_factory.mktemp("graph") / "patient.yaml"
    parameters.write_text(PATIENT)
    arguments = {"use_mock_hardware": True, "transport": "local", "params_file": str(parameters)}
    with Runner(resolve(REAL_ARM, arguments), console="quiet", handle_signals=False) as runner:
        yield
        assert runner.poll() is None, runner.failure


@pytest.fixture
def person(graph: None, test_node: TestNode) -> Iterator[Person]:
    terminal = Terminal()
    yield Person(test_node, terminal)
    terminal.end()


@pytest.mark.graph
@pytest.mark.slow
def test_keys_enable_stop_reset_and_step_the_arm_and_q_leaves_it_disabled(person: Person) -> None:
    person.until("ACTIVE", key="e")
    person.terminal.press(" ")
    person.until("STOPPED", reason="estop")
    person.until("DISABLED", key="r")
    person.until("ACTIVE", key="s")
    person.terminal.press("q")
    assert person.terminal.process.wait(10) == 0
    person.until("DISABLED")
    output = person.terminal.output
    for words in ("ACTIVE", "STOPPED (estop)", "DISABLED (not_enabled)", "disable: disabled"):
        assert words in output
    assert "Traceback" not in output


@pytest.mark.graph
@pytest.mark.slow
@pytest.mark.parametrize(
    "leave",
    [
        lambda terminal: terminal.close_window(),
        lambda terminal: terminal.process.kill(),
        lambda terminal: terminal.process.send_signal(signal.SIGSTOP),
    ],
    ids=["closed_window", "killed", "suspended"],
)
def test_lost_terminal_stops_the_arm(person: Person, leave: Callable[[Terminal], None]) -> None:
    person.until("ACTIVE", key="e")
    leave(person.terminal)
    person.until("STOPPED", reason="heartbeat_lost")


@pytest.mark.graph
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_disables_the_arm_before_the_terminal_ends(person: Person, number: signal.Signals) -> None:
    person.until("ACTIVE", key="e")
    person.terminal.process.send_signal(number)
    assert person.terminal.process.wait(10) == 0
    person.until("DISABLED")
