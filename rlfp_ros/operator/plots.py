"""Points of the page's plots: residual, admitted residual and command, each as a share of its limit."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from rlfp_ros.control.arm import Arm

SECONDS = 20.0
PERIOD_S = 0.1  # between two points
POINTS = round(SECONDS / PERIOD_S)


@dataclass(frozen=True, eq=False)
class PlotPoint:
    """Values at one time; None if nothing came since the last point.

    Attributes
    ----------
    at_s
        On the desk's clock.
    asked, applied
        [A] in action units, whose limits are -1 and 1: what the policy asked for, and what the safety controller
        admitted.
    position
        [J] of the command: -1 at the lower and 1 at the upper limit of each joint.
    velocity
        [J] of the command, as a share of each joint's velocity limit.
    """

    at_s: float
    asked: np.ndarray | None = None
    applied: np.ndarray | None = None
    position: np.ndarray | None = None
    velocity: np.ndarray | None = None

    def shown(self) -> dict[str, Any]:
        """Return the values for the page."""
        names = ("asked", "applied", "position", "velocity")
        return {"t": round(1e3 * self.at_s)} | {name: _shown(getattr(self, name)) for name in names}


@dataclass(eq=False)
class Plots:
    """The newest points.

    Attributes
    ----------
    components
        Names of the action's components.
    joints
        Names of the joints.
    """

    components: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    _points: deque[tuple[int, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=POINTS))
    _numbers: Any = field(default_factory=lambda: count(1))

    def name(self, components: tuple[str, ...], joints: tuple[str, ...]) -> None:
        """Set the names of the lines. Points of another bundle are forgotten."""
        if (components, joints) != (self.components, self.joints):
            self._points.clear()
            self.components, self.joints = components, joints

    def add(self, point: PlotPoint) -> None:
        """Add a point, which is newer than all others."""
        self._points.append((next(self._numbers), point.shown()))

    def since(self, number: int) -> tuple[int, dict[str, Any]]:
        """Return the number of the newest point, and what a page needs that has the points up to `number`."""
        points = list(self._points)
        newest = points[-1][0] if points else number
        new = [shown for place, shown in points if place > number]
        return newest, {"components": self.components, "joints": self.joints, "points": new}


def position_share(position: np.ndarray, arm: Arm) -> np.ndarray:
    """Return joint positions [J] rad as places between their limits: -1 lower, 1 upper."""
    lower, upper = np.array(arm.limits.lower), np.array(arm.limits.upper)
    return np.asarray((2.0 * position - lower - upper) / (upper - lower))


def velocity_share(velocity: np.ndarray, arm: Arm) -> np.ndarray:
    """Return joint velocities [J] rad/s as shares of their limits."""
    return np.asarray(velocity / np.array(arm.limits.velocity))


def _shown(values: np.ndarray | None) -> list[float | None] | None:
    if values is None:
        return None
    return [round(value, 3) if math.isfinite(value) else None for value in np.asarray(values, float).tolist()]
