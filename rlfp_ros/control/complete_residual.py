"""Combines the twist, gripper width and percept of one image, which arrive as separate messages, into a residual."""

from __future__ import annotations

from dataclasses import replace

from rlfp_ros.control.trajectory import Residual

PERCEPT_LOST_NS = 500_000_000  # ns; if percepts stopped this long before a residual, it does not wait for its percept


class CompleteResiduals:
    """Holds a residual back until the gripper width and the percept of the same stamp have arrived.

    Perception publishes a percept after the features that the policy answers, so the two race. In lock step a residual
    waits for the percept, so that timing never changes an episode. On an arm, waiting would only add latency.

    Every method returns the residuals to admit now, oldest first: none, one, or two if a newer residual ends the wait
    of the one before.

    Parameters
    ----------
    has_gripper
        Whether residuals come with a gripper width.
    waits_for_percepts
        Whether residuals wait for the percept of their image.
    """

    def __init__(self, has_gripper: bool, waits_for_percepts: bool) -> None:
        self._has_gripper, self._waits_for_percepts = has_gripper, waits_for_percepts
        self.begin_episode(0)

    def begin_episode(self, stamp_ns: int) -> None:
        """Drop the waiting residual; percepts belong to images taken after `stamp_ns`."""
        self._waiting: Residual | None = None
        self._gripper: tuple[int, float] | None = None  # stamp and width, m
        self._percept_stamp_ns = stamp_ns

    def saw_residual(self, residual: Residual, reached_ns: int) -> list[Residual]:
        """Take a residual; `reached_ns` is the present on the senders' clock."""
        overtaken = [] if self._waiting is None else [self._waiting]  # its gripper width or percept never came
        self._waiting = residual
        return overtaken + self._complete(reached_ns)

    def saw_gripper(self, stamp_ns: int, width: float, reached_ns: int) -> list[Residual]:
        """Take the gripper width (m) of the residual with this stamp."""
        self._gripper = stamp_ns, width
        return self._complete(reached_ns)

    def saw_percept(self, stamp_ns: int, reached_ns: int) -> list[Residual]:
        """Take note that perception has answered the image with this stamp."""
        self._percept_stamp_ns = stamp_ns
        return self._complete(reached_ns)

    def _complete(self, reached_ns: int) -> list[Residual]:
        residual = self._waiting
        if residual is None:
            return []
        if self._has_gripper and residual.gripper_width is None:
            if self._gripper is None or self._gripper[0] != residual.stamp_ns:
                return []
            residual = replace(residual, gripper_width=self._gripper[1])
        behind = residual.stamp_ns - self._percept_stamp_ns
        if self._waits_for_percepts and residual.stamp_ns <= reached_ns and 0 < behind < PERCEPT_LOST_NS:
            return []
        self._waiting = None
        return [residual]
