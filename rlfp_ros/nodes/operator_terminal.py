"""`operator_terminal`: heartbeat, services and state of the residual controller, from the terminal it runs in.

`./rlfp operate --terminal` becomes this process. The heartbeat is published from the loop that reads the keys and draws
the state: if either is blocked or the process ends, the heartbeat ends, and the controller stops the arm.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.signals import uninstall_signal_handlers
from rich.console import Console
from rich.live import Live

from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.nodes import spin
from rlfp_ros.nodes.operator_link import OperatorLink
from rlfp_ros.operator.action import Action
from rlfp_ros.operator.terminal import Keyboard, OperatorTerminal, keyboard

PERIOD_S = 0.05  # between reads of the keyboard
BEATS_EVERY = 2  # periods between heartbeats, 0.1 s; the controller allows 0.5 s
DRAWS_EVERY = 10  # periods between redraws, if nothing has changed


class OperatorTerminalNode(Node):
    """Messages, services and timers around `operator.terminal.OperatorTerminal`."""

    def __init__(self, keys: Keyboard, live: Live) -> None:
        super().__init__("operator_terminal")
        self._keys, self._live = keys, live
        self._terminal = OperatorTerminal()
        self._period = 0
        self._link = OperatorLink(self, self._on_state, self._terminal.on_checklist)
        self.create_timer(PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))
        # rclpy's own handlers would close the topics before the arm is disabled.
        uninstall_signal_handlers()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._press("q"))

    def _on_timer(self) -> None:
        for key in self._keys.pressed():
            self._press(key)
        if self._keys.is_lost:
            raise spin.Finished(1, "operator_terminal: the terminal is gone; the heartbeat ends and the arm stops")
        if self._terminal.has_ended(time.monotonic()):
            raise spin.Finished
        self._period += 1
        if self._terminal.beats and self._period % BEATS_EVERY == 0:
            self._link.beat()
        if self._period % DRAWS_EVERY == 0:
            self._draw()

    def _press(self, key: str) -> None:
        action = self._terminal.press(key, time.monotonic())
        if action is Action.STOP:
            self._link.stop()
        elif action is Action.QUIT:
            self._call(Action.DISABLE)
        elif action is not None:
            self._call(action)
        self._draw()

    def _call(self, action: Action) -> None:
        def answered(success: bool, message: str) -> None:
            self._terminal.on_answer(action, success, message)
            self._draw()

        self._link.call(action, answered)

    def _on_state(self, state: SafetyState) -> None:
        self._terminal.on_state(state)
        self._draw()

    def _draw(self) -> None:
        self._live.update(self._terminal.view(), refresh=True)


def main() -> None:
    """Entry point of `./rlfp operate --terminal`."""
    if not sys.stdin.isatty():
        print("operator_terminal: standard input is not a terminal; start it in one", file=sys.stderr)
        sys.exit(spin.MISCONFIGURED)
    console = Console(highlight=False)
    with keyboard() as keys, Live(console=console, auto_refresh=False) as live:
        code = spin.run(lambda: OperatorTerminalNode(keys, live))
    if keys.is_lost:
        os._exit(code)  # nothing more can be written
    sys.exit(code)


if __name__ == "__main__":
    main()
