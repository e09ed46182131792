"""The operator's commands, and the rule that decides whether a heartbeat may be sent."""

from __future__ import annotations

import enum

from rlfp_ros.control.safety.safety_state import SafetyState


class Action(enum.Enum):
    """A command of the operator. The value is the name of the controller's service, except for `STOP` and `QUIT`."""

    ENABLE = "enable"
    STEP = "step"
    STOP = "stop"  # on the topic safety/estop
    DISABLE = "disable"
    RESET = "reset"
    QUIT = "quit"


SERVICES = (Action.ENABLE, Action.STEP, Action.DISABLE, Action.RESET)


class HeartbeatRule:
    """Withholds the heartbeat between a stop and the controller's report that the arm is stopped.

    If the stop message is lost, the missing heartbeat stops the arm.
    """

    def __init__(self) -> None:
        self._stopping = False
        self._enabled = True  # as far as is known

    @property
    def allows(self) -> bool:
        """Whether a heartbeat may be sent."""
        return not self._stopping

    def on_stop(self) -> None:
        """Take note that the operator pressed STOP. A second one after the stop must not wait for another report."""
        self._stopping = self._enabled

    def on_state(self, state: SafetyState) -> None:
        """Take note of the controller's state."""
        self._enabled = state.enabled
        if not self._enabled:
            self._stopping = False
