"""Kinematics of an arm: Pinocchio reads its URDF, and compiled functions evaluate it (`chain.py`)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pinocchio as pin

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.arm_parts import Pointer
from rlfp_ros.control.chain import COLUMNS, FIXED, POSE, PRISMATIC, REVOLUTE, locate
from rlfp_ros.control.compiled import prepare
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
        base = self.model.frames[self.model.getFrameId(arm.base_frame, LINK)]
        if base.parentJoint != 0:
            raise ConfigurationError(f"{arm.origin}: base_frame {arm.base_frame!r} moves with a joint")
        self.base_placement = base.placement.copy()  # of the base frame in the URDF's root
        self._q = np.zeros(self.model.nq)
        self.chain = _chain_of(self.model, arm, self.base_placement)
        self._poses = np.zeros((len(self.chain), POSE))
        prepare()

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
        joints = len(self.chain) - 1
        located = np.empty(12 + 6 * joints)
        locate(self.chain, checked_joints(q, joints), self._poses, located)
        return located[:3], located[3:12].reshape(3, 3), located[12:].reshape(6, joints)

    def forward(self, q: np.ndarray) -> np.ndarray:
        """Return T_base_tool, 4 x 4, at q [J] rad."""
        position, rotation, _ = self.evaluate(q)
        transform = np.eye(4)
        transform[:3, :3] = rotation
        transform[:3, 3] = position
        return transform

    def tool_position(self, q: np.ndarray) -> np.ndarray:
        """Return the tool centre point [3] m in the base frame at q [J] rad."""
        return self.evaluate(q)[0]

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        """Return the Jacobian [6, J] of the tool at q [J] rad: rows vx vy vz wx wy wz along the base's axes."""
        return self.evaluate(q)[2]


def checked_joints(q: np.ndarray, joints: int) -> np.ndarray:
    """Return q as an array that compiled functions take. Raises ValueError if it is not [J]."""
    checked = np.array(q, dtype=float)
    if checked.shape != (joints,):
        raise ValueError(f"joint positions have shape {checked.shape}, expected ({joints},)")
    return checked


def _chain_of(model: pin.Model, arm: Arm, base_placement: pin.SE3) -> np.ndarray:
    """Return the array of `chain.py`: the joints in Pinocchio's order, then the tool."""
    data = model.createData()
    pin.computeJointJacobians(model, data, np.zeros(model.nq))
    to_base = base_placement.inverse()
    rows = []
    for number in range(1, model.njoints):
        moves = pin.getJointJacobian(model, data, number, pin.LOCAL)[:, model.joints[number].idx_v]
        turns = bool(np.linalg.norm(moves[3:]) > 0.5)
        rows.append(
            (model.jointPlacements[number], moves[3:] if turns else moves[:3], REVOLUTE if turns else PRISMATIC)
        )
    tool = model.frames[model.getFrameId(arm.tool_frame, LINK)]
    rows.append((tool.placement, np.zeros(3), FIXED))
    parents = [*list(model.parents)[1:], tool.parentJoint]
    names = list(model.names)[1:]
    chain = np.zeros((len(rows), COLUMNS))
    for row, ((placement, axis, kind), parent) in enumerate(zip(rows, parents, strict=True)):
        if parent == 0 and not base_placement.isIdentity():
            placement = to_base * placement
        joint = arm.joint_names.index(names[row]) if kind != FIXED else -1
        chain[row] = (*placement.rotation.ravel(), *placement.translation, *axis, kind, parent - 1, joint)
    return chain


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


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return axis times angle [3] rad of a rotation matrix [3, 3]."""
    return pin.log3(rotation)


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Return the rotation matrix [3, 3] of an axis times angle [3] rad."""
    return pin.exp3(vector)
