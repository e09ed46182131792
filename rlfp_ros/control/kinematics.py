"""Kinematics of an arm through Pinocchio: forward, Jacobian, and distances between capsules (coal)."""

from __future__ import annotations

import coal
import numpy as np
import pinocchio as pin

from rlfp_ros.control.arm import Arm
from rlfp_ros.schema import ConfigurationError


class Kinematics:
    """Forward kinematics and Jacobian of the tool centre point, from the arm's URDF.

    Joint vectors follow `arm.joint_names`; poses are in `arm.base_frame`. Every joint of the URDF that is not in
    `joint_names` (the fingers) is locked at its neutral position. One instance serves one thread: it owns buffers.

    Raises ConfigurationError where the URDF lacks a joint or a frame that the arm names.
    """

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        try:
            whole = pin.buildModelFromUrdf(str(arm.urdf_path))
        except (ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"{arm.urdf_path}: not a URDF that Pinocchio reads ({error}); correct it or name another in the arm"
            ) from None
        missing = [name for name in arm.joint_names if not whole.existJointName(name)]
        if missing:
            raise ConfigurationError(
                f"config/arms/{arm.name}.yaml: joint_names has {missing[0]!r}, but {arm.urdf_path.name} has "
                f"{', '.join(list(whole.names)[1:])}; correct the name"
            )
        for name in (arm.base_frame, arm.tool_frame):
            if not whole.existFrame(name):
                raise ConfigurationError(
                    f"config/arms/{arm.name}.yaml: frame {name!r} is not a link of {arm.urdf_path.name}; "
                    "correct the name"
                )
        locked = [whole.getJointId(name) for name in list(whole.names)[1:] if name not in arm.joint_names]
        self.model = pin.buildReducedModel(whole, locked, pin.neutral(whole))
        self.data = self.model.createData()
        if self.model.nq != len(arm.joint_names):
            raise ConfigurationError(
                f"config/arms/{arm.name}.yaml: joint_names has {len(arm.joint_names)} joints with {self.model.nq} "
                "coordinates, expected one each (revolute or prismatic); continuous joints need limits in the URDF"
            )
        order = [self.model.joints[self.model.getJointId(name)].idx_q for name in arm.joint_names]
        # Pinocchio counts joints along the tree; None means that the arm's order is the same and nothing is shuffled.
        self.order = None if order == list(range(len(order))) else np.array(order)
        self._tool = self.model.getFrameId(arm.tool_frame)
        base = self.model.frames[self.model.getFrameId(arm.base_frame)]
        if base.parentJoint != 0:
            raise ConfigurationError(f"config/arms/{arm.name}.yaml: base_frame {arm.base_frame!r} moves with a joint")
        self.base_placement = base.placement.copy()  # of the base frame in the URDF's root
        self._base = None if base.placement.isIdentity() else self.base_placement
        self._q = np.zeros(self.model.nq)
        self._tool_placement = self.data.oMf[self._tool]

    def joints(self, q: np.ndarray) -> np.ndarray:
        """q in Pinocchio's order."""
        if self.order is None:
            return q
        self._q[self.order] = q
        return self._q

    def evaluate(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tool position [3] m, rotation [3, 3] (T_base_tool) and Jacobian [6, J] at q [J] rad, in one pass.

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
        """T_base_tool, 4 x 4, at q [J] rad."""
        position, rotation, _ = self.evaluate(np.asarray(q, dtype=float))
        transform = np.eye(4)
        transform[:3, :3] = rotation
        transform[:3, 3] = position
        return transform

    def tool_position(self, q: np.ndarray) -> np.ndarray:
        """Tool centre point [3] m in the base frame at q [J] rad."""
        pin.framesForwardKinematics(self.model, self.data, self.joints(q))
        position = self._tool_placement.translation
        if self._base is not None:
            return self._base.rotation.T @ (position - self._base.translation)
        return position.copy()

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        """Jacobian [6, J] of the tool at q [J] rad: rows vx vy vz wx wy wz, along the base's axes, at the tool."""
        return self.evaluate(np.asarray(q, dtype=float))[2]


JOINTS_BETWEEN = 3  # capsules with fewer joints between them cannot meet, or touch by construction


class Distances:
    """Distances between the arm's own capsules, and from them to table and obstacles, kept above margins (m).

    Pairs are those with at least `JOINTS_BETWEEN` joints between their links, every capsule beyond the third joint
    against the table plane, and every capsule that moves against every obstacle. Without capsules in the arm's
    configuration there are no pairs and all is clear.
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
            if not model.existFrame(capsule.link):
                raise ConfigurationError(
                    f"config/arms/{arm.name}.yaml: capsules.{number}.link is {capsule.link!r}, which is not a link of "
                    f"{arm.urdf_path.name}; correct the name"
                )
            index = model.getFrameId(capsule.link)
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
        self.margins = np.array(margins)
        self.names = [
            (geometry.geometryObjects[pair.first].name, geometry.geometryObjects[pair.second].name)
            for pair in geometry.collisionPairs
        ]
        self._geometry = geometry
        self._joints = [
            (geometry.geometryObjects[pair.first].parentJoint, geometry.geometryObjects[pair.second].parentJoint)
            for pair in geometry.collisionPairs
        ]
        self._geometry_data = pin.GeometryData(geometry)
        for pair, kept in enumerate(margins):
            self._geometry_data.collisionRequests[pair].security_margin = kept
        self._results = [self._geometry_data.distanceResults[pair] for pair in range(len(margins))]
        # A joint moves no point of the arm faster than its rate times the length of all that follows it.
        lengths = [float(np.linalg.norm(placement.translation)) for placement in model.jointPlacements]
        ends = [0.0] * len(lengths)
        tool = model.frames[model.getFrameId(arm.tool_frame)]
        ends[tool.parentJoint] = float(np.linalg.norm(tool.placement.translation))
        for capsule in arm.capsules:
            frame = model.frames[model.getFrameId(capsule.link)]
            far = max(float(np.linalg.norm(capsule.start)), float(np.linalg.norm(capsule.end)))
            far += float(np.linalg.norm(frame.placement.translation)) + capsule.radius
            ends[frame.parentJoint] = max(ends[frame.parentJoint], far)
        reach = [sum(lengths[joint + 1 :]) + max(ends[joint:]) for joint in range(1, len(lengths))]
        self.reach = np.array(reach) if kinematics.order is None else np.array(reach)[kinematics.order]  # [J] m
        self._none = np.zeros((0, len(arm.joint_names))), np.zeros(0)
        self._known_at, self._known = np.full(len(arm.joint_names), np.inf), 0.0

    def _at_least(self, q: np.ndarray) -> float:
        """A bound on the smallest spare distance at q, from the last one that was computed."""
        if not self._results:
            return np.inf
        return self._known - float(np.abs(q - self._known_at).dot(self.reach))

    def clear(self, q: np.ndarray) -> bool:
        """Is every pair farther apart than its margin at q [J] rad?"""
        if self._at_least(q) > 0.0:
            return True
        kinematics = self._kinematics
        return not pin.computeCollisions(
            kinematics.model, kinematics.data, self._geometry, self._geometry_data, kinematics.joints(q), True
        )

    def spare(self, q: np.ndarray) -> np.ndarray:
        """Distance of every pair beyond its margin, m, at q [J] rad."""
        model, data, joints = self._kinematics.model, self._kinematics.data, self._kinematics.joints(q)
        pin.computeDistances(model, data, self._geometry, self._geometry_data, joints)
        return np.array([result.min_distance for result in self._results]) - self.margins

    def closing(self, q: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs nearer than margin + influence: rows [n, J] whose product with joint velocities is the speed at which
        the pair parts (m/s), and what is left of each distance [n] m. At most the `most` nearest."""
        if self._at_least(q) > self._influence:
            return self._none
        kinematics = self._kinematics
        model, data = kinematics.model, kinematics.data
        spare = self.spare(q)
        self._known_at, self._known = q.copy(), float(spare.min())
        if self._known >= self._influence:
            return self._none
        near = np.flatnonzero(spare < self._influence)
        near = near[np.argsort(spare[near])][:most]
        pin.computeJointJacobians(model, data, kinematics.joints(q))
        rows = []
        for pair in near.tolist():
            result = self._results[pair]
            normal = result.normal  # from the first shape to the second
            first, second = self._joints[pair]
            row = self._point_row(second, result.getNearestPoint2(), normal)
            row = row - self._point_row(first, result.getNearestPoint1(), normal)
            rows.append(row if kinematics.order is None else row[kinematics.order])
        return np.array(rows).reshape(len(near), len(q)), spare[near]

    def _point_row(self, joint: int, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Speed along `normal` of a point that moves with `joint`, for each joint's rate."""
        kinematics = self._kinematics
        if joint == 0:
            return np.zeros(kinematics.model.nv)
        jacobian = pin.getJointJacobian(kinematics.model, kinematics.data, joint, pin.LOCAL_WORLD_ALIGNED)
        x, y, z = (point - kinematics.data.oMi[joint].translation).tolist()
        nx, ny, nz = normal.tolist()
        return np.array((nx, ny, nz, y * nz - z * ny, z * nx - x * nz, x * ny - y * nx)).dot(jacobian)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Axis times angle [3] rad of a rotation matrix [3, 3]."""
    return pin.log3(rotation)


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] of an axis times angle [3] rad."""
    return pin.exp3(vector)
