"""The operator's terminal: maps keys to actions and renders the view. `nodes/operator_terminal.py` adds ROS."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from rlfp_ros.commissioning.checklist import ChecklistReport
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.operator.action import Action, HeartbeatRule

NOTES = 6  # number of event lines, the newest last
QUIT_S = 2.0  # longest wait at the end for the arm to come to rest after `disable`
COLOURS = {State.DISABLED: "cyan", State.ACTIVE: "green", State.HOLDING: "yellow", State.STOPPED: "red"}


KEYS = {
    "e": (Action.ENABLE, "enable"),
    "s": (Action.STEP, "one step"),
    " ": (Action.STOP, "STOP"),
    "d": (Action.DISABLE, "disable"),
    "r": (Action.RESET, "reset after a stop"),
    "q": (Action.QUIT, "disable and quit"),
}


class OperatorTerminal:
    """The state of the terminal; decides whether a heartbeat may be sent.

    The heartbeat means that a person sees the state and can stop the arm. It ends when the terminal is lost, after
    QUIT, and between STOP and the controller's report that the arm is stopped: if the stop message is lost, the missing
    heartbeat stops the arm.
    """

    def __init__(self) -> None:
        self.state: SafetyState | None = None
        self.checklist: ChecklistReport | None = None
        self.notes: deque[str] = deque(maxlen=NOTES)
        self._rule = HeartbeatRule()
        self._quit_at: float | None = None

    def press(self, key: str, now_s: float) -> Action | None:
        """Return the action of a key, or None if it has none.

        Parameters
        ----------
        key
            One character.
        now_s
            Time on a steady clock.
        """
        if key.lower() not in KEYS:
            return None
        action = KEYS[key.lower()][0]
        if action is Action.STOP:
            self._rule.on_stop()
        if action is Action.QUIT:
            if self._quit_at is not None:
                return None
            self._quit_at = now_s
        self.notes.append(f"{action.value} ...")
        return action

    def on_state(self, state: SafetyState) -> None:
        """Handle a message of the topic safety/state."""
        if self.state is None or state.state is not self.state.state or state.reasons != self.state.reasons:
            self.notes.append(str(state))
        self.state = state
        self._rule.on_state(state)

    def on_checklist(self, report: ChecklistReport) -> None:
        """Handle a message of the topic safety/checklist."""
        self.checklist = report

    def on_answer(self, action: Action, success: bool, message: str) -> None:
        """Handle the controller's answer to an action."""
        self.notes.append(f"{action.value}: {message}" if success else f"{action.value} refused: {message}")

    @property
    def beats(self) -> bool:
        """Whether a heartbeat may be sent."""
        return self._rule.allows

    def has_ended(self, now_s: float) -> bool:
        """Return whether the terminal has quit and the arm is disabled, or QUIT_S have passed."""
        if self._quit_at is None:
            return False
        return self.state is None or not self.state.enabled or now_s - self._quit_at > QUIT_S

    def view(self) -> RenderableType:
        """Return the view: keys, state with reasons, red lines of the checklist, and recent events."""
        table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row("keys", "   ".join(f"[bold]{_name(key)}[/] {text}" for key, (_, text) in KEYS.items()))
        if self.state is None:
            table.add_row("state", "[yellow]nothing comes on safety/state; is the graph running?[/]")
        else:
            colour = COLOURS[self.state.state]
            reasons = escape(", ".join(self.state.reasons))
            table.add_row("state", f"[bold {colour}]{self.state.state.value}[/]  {reasons}  gain {self.state.gain:.2f}")
        if self.checklist is not None and (self.state is None or not self.state.enabled):
            red = [line for line in self.checklist.lines if not line.ok]
            table.add_row("checklist", "[green]green[/]" if not red else f"[yellow]{len(red)} not green[/]")
            for line in red:
                table.add_row("", escape(str(line)))
        return Group(table, *(f"[dim]{escape(note)}[/]" for note in self.notes))


def _name(key: str) -> str:
    return {" ": "SPACE"}.get(key, key)


class Keyboard:
    """Reads single keys of a terminal without waiting."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.is_lost = False  # the terminal was closed

    def pressed(self) -> Sequence[str]:
        """Return the keys since the last call; sets `is_lost` if the terminal has gone."""
        try:
            ready, _, _ = select.select([self._descriptor], [], [], 0)
            if not ready:
                return ()
            data = os.read(self._descriptor, 64)
        except OSError:
            data = b""
        if not data:
            self.is_lost = True
        return data.decode("utf-8", errors="ignore")


@contextlib.contextmanager
def keyboard(descriptor: int | None = None) -> Iterator[Keyboard]:
    """Read keys as they are pressed, without echo; restores the terminal's settings at the end."""
    descriptor = sys.stdin.fileno() if descriptor is None else descriptor
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield Keyboard(descriptor)
    finally:
        with contextlib.suppress(termios.error, OSError):  # the terminal may be gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
