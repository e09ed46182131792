"""Kinematics of an arm through Pinocchio: forward, Jacobian, and distances between capsules (coal)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from bisect import insort

import coal
import numpy as np
import pinocchio as pin

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.arm_parts import Pointer
from rlfp_ros.control.robot_description import pointer_end, read_description
from rlfp_ros.schema import ConfigurationError

LINK = pin.FrameType.BODY  # an arm's file names links; a joint of the URDF may have the same name as a link


class Kinematics:
    """Forward kinematics and Jacobian of the tool centre point, from the arm's URDF.

    Joint vectors follow `arm.joint_names`; poses are in `arm.base_frame`. Every joint of the URDF that is not in
    `joint_names` (the fingers) is locked at its neutral position. One instance serves one thread: it owns buffers.

    Raises ConfigurationError if the URDF lacks a joint or a frame that the arm names.
    """

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        description = ElementTree.tostring(read_description(arm), encoding="unicode")
        try:
            whole = pin.buildModelFromXML(description)
        except (ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"{arm.urdf_path}: not a URDF that Pinocchio reads ({error}); correct it or name another in the arm"
            ) from None
        _rename_joint_frames(whole)
        if arm.pointer is not None:
            _add_pointer(whole, arm, arm.pointer)
        missing = [name for name in arm.joint_names if not whole.existJointName(name)]
        if missing:
            raise ConfigurationError(
                f"{arm.origin}: joint_names has {missing[0]!r}, but {arm.urdf_path.name} has "
                f"{', '.join(list(whole.names)[1:])}; correct the name"
            )
        for name in (arm.base_frame, arm.tool_frame):
            if not whole.existFrame(name, LINK):
                raise ConfigurationError(
                    f"{arm.origin}: frame {name!r} is not a link of {arm.urdf_path.name}; correct the name"
                )
        locked = [whole.getJointId(name) for name in list(whole.names)[1:] if name not in arm.joint_names]
        self.model = pin.buildReducedModel(whole, locked, pin.neutral(whole))
        self.data = self.model.createData()
        if self.model.nq != len(arm.joint_names):
            raise ConfigurationError(
                f"{arm.origin}: joint_names has {len(arm.joint_names)} joints with {self.model.nq} "
                "coordinates, expected one each (revolute, prismatic or continuous)"
            )
        order = [self.model.joints[self.model.getJointId(name)].idx_q for name in arm.joint_names]
        # Pinocchio numbers joints along the tree; None means that this is also the arm's order.
        self.order = None if order == list(range(len(order))) else np.array(order)
        self._tool = self.model.getFrameId(arm.tool_frame, LINK)
        base = self.model.frames[self.model.getFrameId(arm.base_frame, LINK)]
        if base.parentJoint != 0:
            raise ConfigurationError(f"{arm.origin}: base_frame {arm.base_frame!r} moves with a joint")
        self.base_placement = base.placement.copy()  # of the base frame in the URDF's root
        self._base = None if base.placement.isIdentity() else self.base_placement
        self._q = np.zeros(self.model.nq)
        self._tool_placement = self.data.oMf[self._tool]

    def joints(self, q: np.ndarray) -> np.ndarray:
        """Return q [J] rad in Pinocchio's order."""
        if self.order is None:
            return q
        self._q[self.order] = q
        return self._q

    def evaluate(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tool position [3] m, rotation [3, 3] (T_base_tool) and Jacobian [6, J] at q [J] rad, in one pass.

        The Jacobian maps joint velocities to the tool's (vx vy vz wx wy wz) at the tool, along the base's axes.
        """
        jacobian = pin.computeFrameJacobian(self.model, self.data, self.joints(q), self._tool, pin.LOCAL_WORLD_ALIGNED)
        placement = self._tool_placement
        position, rotation = placement.translation, placement.rotation
        if self.order is not None:
            jacobian = jacobian[:, self.order]
        if self._base is not None:
            to_base = self._base.rotation.T
            position, rotation = to_base @ (position - self._base.translation), to_base @ rotation
            jacobian = np.vstack((to_base @ jacobian[:3], to_base @ jacobian[3:]))
        else:
            position, rotation = position.copy(), rotation.copy()
        return position, rotation, jacobian

    def forward(self, q: np.ndarray) -> np.ndarray:
        """Return T_base_tool, 4 x 4, at q [J] rad."""
        position, rotation, _ = self.evaluate(np.asarray(q, dtype=float))
        transform = np.eye(4)
        transform[:3, :3] = rotation
        transform[:3, 3] = position
        return transform

    def tool_position(self, q: np.ndarray) -> np.ndarray:
        """Return the tool centre point [3] m in the base frame at q [J] rad."""
        pin.framesForwardKinematics(self.model, self.data, self.joints(q))
        position = self._tool_placement.translation
        if self._base is not None:
            return self._base.rotation.T @ (position - self._base.translation)
        return position.copy()

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        """Return the Jacobian [6, J] of the tool at q [J] rad: rows vx vy vz wx wy wz along the base's axes."""
        return self.evaluate(np.asarray(q, dtype=float))[2]


def _rename_joint_frames(model: pin.Model) -> None:
    """Rename the frames of joints that have the same name as a link: `buildReducedModel` looks frames up by name."""
    links = {frame.name for frame in model.frames if frame.type == LINK}
    for frame in model.frames:
        if frame.type != LINK and frame.name in links:
            frame.name = f"{frame.name} (joint)"


def _add_pointer(model: pin.Model, arm: Arm, pointer: Pointer) -> None:
    """Add the frame at the end of the rod on the flange."""
    for field, name, expected in (("pointer.link", pointer.link, True), ("tool_frame", arm.tool_frame, False)):
        if model.existFrame(name, LINK) != expected:
            raise ConfigurationError(
                f"{arm.origin}: {field} is {name!r}, which is {'not ' * expected}a link of "
                f"{arm.urdf_path.name}; the pointer stands on a link that it has, and its end, tool_frame, is a new one"
            )
    index = model.getFrameId(pointer.link, LINK)
    flange = model.frames[index]
    end = flange.placement * pin.SE3(pointer_end(pointer))
    model.addFrame(pin.Frame(arm.tool_frame, flange.parentJoint, index, end, pin.FrameType.BODY))


JOINTS_BETWEEN = 3  # capsules with fewer joints between them cannot collide, or touch by construction
ORDER_LASTS_M = 0.02  # m; after this much motion of the arm, all pairs are computed again and sorted by distance


class Distances:
    """Distances (m) beyond their margins, between the arm's own capsules and from them to table and obstacles.

    Pairs are those with at least `JOINTS_BETWEEN` joints between their links, every capsule beyond the third joint
    against the table plane, and every moving capsule against every obstacle. An arm without capsules has no pairs, and
    every posture is clear.
    """

    def __init__(
        self, kinematics: Kinematics, margin: float, table_margin: float, influence: float, obstacle_margin: float = 0.0
    ) -> None:
        self._kinematics = kinematics
        self._influence = influence
        arm, model = kinematics.arm, kinematics.model
        geometry = pin.GeometryModel()
        placed: list[tuple[int, int]] = []  # (geometry, joint)
        for number, capsule in enumerate(arm.capsules):
            if not model.existFrame(capsule.link, LINK):
                raise ConfigurationError(
                    f"{arm.origin}: capsules.{number}.link is {capsule.link!r}, which is not a link of "
                    f"{arm.urdf_path.name}; correct the name"
                )
            index = model.getFrameId(capsule.link, LINK)
            frame = model.frames[index]
            start, end = np.array(capsule.start), np.array(capsule.end)
            length = float(np.linalg.norm(end - start))
            along = (end - start) / length if length > 0 else np.array([0.0, 0.0, 1.0])
            turn = pin.Quaternion.FromTwoVectors(np.array([0.0, 0.0, 1.0]), along).matrix()
            shape = pin.GeometryObject(
                f"{capsule.link}_{number}",
                frame.parentJoint,
                index,
                frame.placement * pin.SE3(turn, 0.5 * (start + end)),
                coal.Capsule(capsule.radius, length),
            )
            placed.append((geometry.addGeometryObject(shape), frame.parentJoint))
        margins = []
        for position, (first, first_joint) in enumerate(placed):
            for second, second_joint in placed[position + 1 :]:
                if abs(first_joint - second_joint) >= JOINTS_BETWEEN:
                    geometry.addCollisionPair(pin.CollisionPair(first, second))
                    margins.append(margin)
        if arm.table_height is not None:
            plane = coal.Halfspace(np.array([0.0, 0.0, 1.0]), 0.0)
            placement = kinematics.base_placement * pin.SE3(np.eye(3), np.array([0.0, 0.0, arm.table_height]))
            table = geometry.addGeometryObject(pin.GeometryObject("table", 0, 0, placement, plane))
            for (index, joint), capsule in zip(placed, arm.capsules, strict=True):
                if joint >= JOINTS_BETWEEN and capsule.table:
                    geometry.addCollisionPair(pin.CollisionPair(index, table))
                    margins.append(table_margin)
        for obstacle in arm.obstacles:
            box = coal.Box(np.array(obstacle.size))
            placement = kinematics.base_placement * pin.SE3(obstacle.pose.matrix())
            other = geometry.addGeometryObject(pin.GeometryObject(f"obstacle {obstacle.name}", 0, 0, placement, box))
            for index, joint in placed:
                if joint:
                    geometry.addCollisionPair(pin.CollisionPair(index, other))
                    margins.append(obstacle_margin)
        self._margins = margins
        self.names = [
            (geometry.geometryObjects[pair.first].name, geometry.geometryObjects[pair.second].name)
            for pair in geometry.collisionPairs
        ]
        self._geometry = geometry
        joints = [
            (geometry.geometryObjects[pair.first].parentJoint, geometry.geometryObjects[pair.second].parentJoint)
            for pair in geometry.collisionPairs
        ]
        self._geometry_data = pin.GeometryData(geometry)
        for pair, kept in enumerate(margins):
            self._geometry_data.collisionRequests[pair].security_margin = kept
        self._results = [self._geometry_data.distanceResults[pair] for pair in range(len(margins))]
        # A joint moves no point of the arm faster than its rate times the length of the links after it.
        lengths = [float(np.linalg.norm(placement.translation)) for placement in model.jointPlacements]
        ends = [0.0] * len(lengths)
        tool = model.frames[model.getFrameId(arm.tool_frame, LINK)]
        ends[tool.parentJoint] = float(np.linalg.norm(tool.placement.translation))
        for capsule in arm.capsules:
            frame = model.frames[model.getFrameId(capsule.link, LINK)]
            far = max(float(np.linalg.norm(capsule.start)), float(np.linalg.norm(capsule.end)))
            far += float(np.linalg.norm(frame.placement.translation)) + capsule.radius
            ends[frame.parentJoint] = max(ends[frame.parentJoint], far)
        reach = [sum(lengths[joint + 1 :]) + max(ends[joint:]) for joint in range(1, len(lengths))]
        self.reach = np.array(reach) if kinematics.order is None else np.array(reach)[kinematics.order]  # [J] m
        # [P, 2, J]: -1 (first point of the pair) or 1 (second) if the joint moves the point, otherwise 0.
        moved_by = np.zeros((len(lengths), model.nv))
        for joint in range(1, len(lengths)):
            moved_by[joint, [model.joints[above].idx_v for above in list(model.supports[joint])[1:]]] = 1.0
        self._moved_by = np.array([(-moved_by[first], moved_by[second]) for first, second in joints])
        self._none = np.zeros((0, len(arm.joint_names))), np.zeros(0)
        nowhere = np.full(len(arm.joint_names), np.inf)
        self._known_at, self._known = nowhere, 0.0
        self._ordered_at, self._ordered = nowhere, list[tuple[float, int]]()

    def _moved(self, q: np.ndarray, since: np.ndarray) -> float:
        """Return an upper bound (m) on how much two points of the arm can have approached from `since` to `q`."""
        return float(np.abs(q - since).dot(self.reach))

    def at_least(self, q: np.ndarray) -> float:
        """Return a lower bound on the smallest spare distance at q, from the last one that was computed."""
        if not self._results:
            return np.inf
        return self._known - self._moved(q, self._known_at)

    def clear(self, q: np.ndarray) -> bool:
        """Return whether every pair is farther apart than its margin at q [J] rad."""
        if self.at_least(q) > 0.0:
            return True
        kinematics = self._kinematics
        return not pin.computeCollisions(
            kinematics.model, kinematics.data, self._geometry, self._geometry_data, kinematics.joints(q), True
        )

    def spare(self, q: np.ndarray) -> np.ndarray:
        """Return the distance of every pair beyond its margin, m, at q [J] rad."""
        model, data, joints = self._kinematics.model, self._kinematics.data, self._kinematics.joints(q)
        pin.computeDistances(model, data, self._geometry, self._geometry_data, joints)
        found = zip(self._results, self._margins, strict=True)
        return np.array([result.min_distance - margin for result, margin in found])

    def closing(self, q: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the pairs nearer than margin + influence, at most the `most` nearest.

        Returns
        -------
        rows
            [n, J]; the product with joint velocities is the speed at which the pair separates, m/s.
        spare
            [n] m, distance of each pair beyond its margin.
        """
        if self.at_least(q) > self._influence:
            return self._none
        near = [(spare, pair) for spare, pair in self._nearest(q, most) if spare < self._influence]
        if not near:
            return self._none
        kinematics = self._kinematics
        # The Jacobian's linear part is the velocity at the origin of the base.
        jacobian = pin.computeJointJacobians(kinematics.model, kinematics.data, kinematics.joints(q))
        wrenches = []
        for _, pair in near:
            result = self._results[pair]
            nx, ny, nz = result.normal.tolist()  # from the first shape to the second
            for point in (result.getNearestPoint1(), result.getNearestPoint2()):
                x, y, z = point.tolist()
                wrenches.append((nx, ny, nz, y * nz - z * ny, z * nx - x * nz, x * ny - y * nx))
        left, pairs = zip(*near, strict=True)
        rates = np.array(wrenches).dot(jacobian).reshape(len(near), 2, -1) * self._moved_by[list(pairs)]
        rows = rates[:, 0] + rates[:, 1]
        return rows if kinematics.order is None else rows[:, kinematics.order], np.array(left)

    def _nearest(self, q: np.ndarray, most: int) -> list[tuple[float, int]]:
        """Return spare distance (m) and number of the `most` nearest pairs at q, nearest first.

        The result may include pairs beyond the influence. Pairs are evaluated in the order of their distances when all
        were computed last, until no later one can be nearer.
        """
        moved = self._moved(q, self._ordered_at)
        if not moved <= ORDER_LASTS_M:  # also true for NaN
            spare = self.spare(q)
            order = np.argsort(spare)
            self._ordered = list(zip(spare[order].tolist(), order.tolist(), strict=True))
            self._ordered_at, moved = q.copy(), 0.0
        kinematics, geometry, data = self._kinematics, self._geometry, self._geometry_data
        pin.updateGeometryPlacements(kinematics.model, kinematics.data, geometry, data, kinematics.joints(q))
        found: list[tuple[float, int]] = []
        farthest = self._influence  # spare distance up to which a pair matters
        for before, pair in self._ordered:
            if before - moved > farthest:
                self._known = min(found[0][0], before - moved) if found else before - moved
                break
            pin.computeDistance(geometry, data, pair)
            insort(found, (self._results[pair].min_distance - self._margins[pair], pair))
            if len(found) >= most:
                farthest = min(self._influence, found[most - 1][0])
        else:
            self._known = found[0][0]
        self._known_at = q.copy()
        return found[:most]


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return axis times angle [3] rad of a rotation matrix [3, 3]."""
    return pin.log3(rotation)


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Return the rotation matrix [3, 3] of an axis times angle [3] rad."""
    return pin.exp3(vector)
