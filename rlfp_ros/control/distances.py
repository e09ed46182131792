"""Distances of an arm to itself, to the table and to obstacles, as data for the compiled functions of `capsules.py`."""

from __future__ import annotations

from typing import Self

import numpy as np

from rlfp_ros.control.capsules import BOX, OTHER, TABLE, Body, closest_pair, closing_pairs, spare_distances
from rlfp_ros.control.chain import POSE
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.kinematics import LINK, Kinematics, checked_joints
from rlfp_ros.schema import ConfigurationError

JOINTS_BETWEEN = 3  # capsules with fewer joints between them cannot collide, or touch by construction


class Distances:
    """Distances (m) beyond their margins, between the arm's own capsules and from them to table and obstacles.

    Pairs are those with at least `JOINTS_BETWEEN` joints between their links, every capsule beyond the third joint
    against the table plane, and every moving capsule against every obstacle. An arm without capsules has no pairs, and
    every posture is clear.

    Attributes
    ----------
    body
        The arrays of `capsules.py`.
    names
        The two names of every pair.
    reach
        [J] m/rad; a joint moves no point of the arm faster than its rate times this.
    """

    @classmethod
    def with_margins_of(cls, settings: ControllerSettings, kinematics: Kinematics) -> Self:
        """Return the distances with the margins that the safety controller keeps."""
        return cls(
            kinematics,
            settings.collision_margin_m,
            settings.table_margin_m,
            settings.collision_influence_m,
            settings.obstacle_margin_m,
        )

    def __init__(
        self, kinematics: Kinematics, margin: float, table_margin: float, influence: float, obstacle_margin: float = 0.0
    ) -> None:
        arm = kinematics.arm
        self._influence = influence
        capsules = _capsules(kinematics)
        links = [int(link) for link in capsules[:, 7]]
        halves = [0.5 * float(np.linalg.norm(capsule[3:6] - capsule[:3])) for capsule in capsules]
        labels = [f"{capsule.link}_{number}" for number, capsule in enumerate(arm.capsules)]
        pairs: list[tuple[float, ...]] = []
        self.names: list[tuple[str, str]] = []
        for first, link in enumerate(links):
            for second in range(first + 1, len(links)):
                if abs(link - links[second]) >= JOINTS_BETWEEN:
                    pairs.append((OTHER, first, second, margin, halves[first] + halves[second]))
                    self.names.append((labels[first], labels[second]))
        if arm.table_height is not None:
            for index, capsule in enumerate(arm.capsules):
                if links[index] + 1 >= JOINTS_BETWEEN and capsule.table:
                    pairs.append((TABLE, index, 0, table_margin, 0.0))
                    self.names.append((labels[index], "table"))
        boxes = np.zeros((len(arm.obstacles), 15))
        for number, obstacle in enumerate(arm.obstacles):
            pose, half = obstacle.pose.matrix(), 0.5 * np.array(obstacle.size)
            boxes[number] = (*pose[:3, :3].ravel(), *pose[:3, 3], *half)
            for index, link in enumerate(links):
                if link >= 0:
                    pairs.append((BOX, index, number, obstacle_margin, halves[index] + float(np.linalg.norm(half))))
                    self.names.append((labels[index], f"obstacle {obstacle.name}"))
        self.body = Body(
            chain=kinematics.chain,
            capsules=capsules,
            pairs=np.array(pairs, dtype=float).reshape(-1, 5),
            boxes=boxes,
            table=0.0 if arm.table_height is None else float(arm.table_height),
        )
        self.reach = _reach(kinematics)
        self._poses, self._placed = np.zeros((len(kinematics.chain), POSE)), np.zeros((len(capsules), 6))

    def clear(self, q: np.ndarray) -> bool:
        """Return whether every pair is farther apart than its margin at q [J] rad."""
        return bool((self.spare(q) > 0.0).all())

    def spare(self, q: np.ndarray) -> np.ndarray:
        """Return the distance of every pair beyond its margin, m, at q [J] rad."""
        spares = np.empty(len(self.body.pairs))
        spare_distances(*self.body, checked_joints(q, len(self.reach)), self._poses, self._placed, spares)
        return spares

    def closest(self, q: np.ndarray, exact_below: float) -> float:
        """Return `capsules.closest` at q [J] rad."""
        return closest_pair(*self.body, checked_joints(q, len(self.reach)), self._poses, self._placed, exact_below)

    def closing(self, q: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the pairs nearer than margin + influence, at most the `most` nearest.

        Returns
        -------
        rows
            [n, J]; the product with joint velocities is the speed at which the pair separates, m/s.
        spare
            [n] m, distance of each pair beyond its margin.
        """
        rows, spares, nearest = np.empty((most, len(self.reach))), np.empty(most), np.empty(most, np.int64)
        joints = checked_joints(q, len(self.reach))
        count = closing_pairs(*self.body, joints, self._poses, self._placed, self._influence, nearest, rows, spares)
        return rows[:count], spares[:count]


def _capsules(kinematics: Kinematics) -> np.ndarray:
    """Return the capsules [N, 8] in the frames of their joints. Raises ConfigurationError if a link is unknown."""
    arm, model = kinematics.arm, kinematics.model
    rows = np.zeros((len(arm.capsules), 8))
    for number, capsule in enumerate(arm.capsules):
        if not model.existFrame(capsule.link, LINK):
            raise ConfigurationError(
                f"{arm.origin}: capsules.{number}.link is {capsule.link!r}, which is not a link of "
                f"{arm.urdf_path.name}; correct the name"
            )
        frame = model.frames[model.getFrameId(capsule.link, LINK)]
        placement = frame.placement if frame.parentJoint else kinematics.base_placement.inverse() * frame.placement
        ends = [placement.act(np.array(end)) for end in (capsule.start, capsule.end)]
        rows[number] = (*ends[0], *ends[1], capsule.radius, frame.parentJoint - 1)
    return rows


def _reach(kinematics: Kinematics) -> np.ndarray:
    """Return [J] m: the length of the links after each joint, capsules included."""
    arm, model = kinematics.arm, kinematics.model
    lengths = [float(np.linalg.norm(placement.translation)) for placement in model.jointPlacements]
    ends = [0.0] * len(lengths)
    tool = model.frames[model.getFrameId(arm.tool_frame, LINK)]
    ends[tool.parentJoint] = float(np.linalg.norm(tool.placement.translation))
    for capsule in arm.capsules:
        frame = model.frames[model.getFrameId(capsule.link, LINK)]
        far = max(float(np.linalg.norm(capsule.start)), float(np.linalg.norm(capsule.end)))
        far += float(np.linalg.norm(frame.placement.translation)) + capsule.radius
        ends[frame.parentJoint] = max(ends[frame.parentJoint], far)
    reach = np.array([sum(lengths[joint + 1 :]) + max(ends[joint:]) for joint in range(1, len(lengths))])
    return reach if kinematics.order is None else reach[kinematics.order]
