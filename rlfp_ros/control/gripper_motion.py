"""The gripper's commanded width: moves towards the policy's width at the gripper's speed."""

from __future__ import annotations

import math

from rlfp_ros.control.arm_parts import Gripper


class GripperMotion:
    """Keeps the commanded width inside the gripper's range. Commands nothing until the policy asks for a width."""

    def __init__(self, gripper: Gripper, dt: float) -> None:
        self._gripper = gripper
        self._change = gripper.velocity * dt  # m per tick
        self.forget()

    def forget(self) -> None:
        """Forget the wanted and the commanded width."""
        self._target: float | None = None
        self._width: float | None = None

    def start(self, width: float) -> None:
        """Begin at a measured width (m); one that is not finite is ignored."""
        if math.isfinite(width):
            self._width = self._inside(width)

    def ask(self, width: float) -> None:
        """Ask for a width (m)."""
        self._target = self._inside(width)

    @property
    def target(self) -> float | None:
        """The wanted width, m; None if none was asked for."""
        return self._target

    def tick(self) -> float | None:
        """Return the width (m) to command in this tick, or None if none was asked for."""
        if self._target is None:
            return None
        width = self._target if self._width is None else self._width
        self._width = min(max(self._target, width - self._change), width + self._change)
        return self._width

    def _inside(self, width: float) -> float:
        return min(max(float(width), self._gripper.closed_width), self._gripper.open_width)
