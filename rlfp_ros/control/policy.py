"""The bundle's policy: observations put together, and its output turned into a residual.

Training builds its observations here too, so that what was trained is what runs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from rlfp_ros.bundle import ActionContract, Bundle, Contract
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.schema import ConfigurationError


@dataclass(frozen=True)
class ObservationContract:
    """What a policy sees, beside the features' number: which joint quantities, and how many frames of features."""

    proprioception: tuple[str, ...] = ("joint_positions", "joint_velocities", "gripper_width", "tool_position")
    feature_stack: int = 2

    @classmethod
    def of(cls, contract: Contract) -> ObservationContract:
        """The one a bundle declares."""
        return cls(contract.proprioception, contract.policy.feature_stack)


class Observer:
    """Builds a policy's inputs from one frame after the other. `reset()` between episodes."""

    def __init__(self, arm: Arm, contract: ObservationContract) -> None:
        self._contract = contract
        self._kinematics = Kinematics(arm)
        self._stack: deque[np.ndarray] = deque(maxlen=contract.feature_stack)
        joints = len(arm.joint_names)
        sizes = {"joint_positions": joints, "joint_velocities": joints, "gripper_width": 1, "tool_position": 3}
        self.proprioception_size = sum(sizes[name] for name in contract.proprioception)

    def reset(self) -> None:
        """Forget the frames before."""
        self._stack.clear()

    def proprioception(self, joint_state: JointState) -> np.ndarray:
        """[P] float32, in the contract's order; rad, rad/s, m, m."""
        parts: dict[str, np.ndarray] = {
            "joint_positions": joint_state.positions,
            "joint_velocities": joint_state.velocities,
            "gripper_width": np.array([joint_state.gripper_width]),
            "tool_position": self._kinematics.tool_position(joint_state.positions),
        }
        return np.concatenate([parts[name] for name in self._contract.proprioception]).astype(np.float32)

    def observe(
        self, features: np.ndarray, joint_state: JointState, goal: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The inputs for one frame, float32: features [stack, K, 3] newest last, proprioception [P], goal [3] m,
        goal_mask [1]. An episode's first frame fills the whole stack."""
        if not self._stack:
            self._stack.extend([features] * self._contract.feature_stack)
        else:
            self._stack.append(features)
        return {
            "features": np.stack(self._stack).astype(np.float32, copy=False),
            "proprioception": self.proprioception(joint_state),
            "goal": np.zeros(3, np.float32) if goal is None else np.asarray(goal, np.float32),
            "goal_mask": np.array([goal is not None], np.float32),
        }


def residual_of(
    action: np.ndarray, contract: ActionContract, stamp_ns: int, joint_names: tuple[str, ...] = ()
) -> Residual:
    """An action in [-1, 1] as a residual in SI units: the one place where the action scale is applied.

    `joint_names`: the arm's, for actions of kind joint_velocity.
    """
    axes = contract.axes(joint_names)
    twist = np.zeros(len(axes))
    gripper_width = None
    for value, component, scale in zip(action.tolist(), contract.components, contract.scale, strict=True):
        if component == "gripper":
            gripper_width = scale * (value + 1)
        else:
            twist[axes.index(component)] = scale * value
    return Residual(stamp_ns, twist, gripper_width)


class Policy:
    """`policy.onnx` with its memory. One call for every frame, in order."""

    def __init__(self, bundle: Bundle, arm: Arm) -> None:
        contract = bundle.contract
        if tuple(arm.joint_names) != contract.arm.joint_names:
            raise ConfigurationError(
                f"{bundle.directory / 'bundle.yaml'}: arm.joint_names is {list(contract.arm.joint_names)}, but "
                f"arm {arm.name} has {list(arm.joint_names)}; choose a bundle for {arm.name}, "
                f"or launch with arm:={contract.arm.name}"
            )
        self.contract = contract
        self._session = bundle.session("policy.onnx")
        self._observer = Observer(arm, ObservationContract.of(contract))
        self.reset()

    def reset(self) -> None:
        """A new episode: no memory of the last."""
        self._observer.reset()
        self._state = np.zeros((1, self.contract.policy.state_size), np.float32)

    def act(
        self, features: np.ndarray, joint_state: JointState, stamp_ns: int, goal: np.ndarray | None = None
    ) -> Residual:
        """What to do about `features` [K, 3] of the picture taken at `stamp_ns` and the joints at that time.

        `goal`: [3] m in the base frame.
        """
        observation = self._observer.observe(features, joint_state, goal)
        inputs = {name: value[None] for name, value in observation.items()} | {"state": self._state}
        action, self._state = self._session.run(("action", "next_state"), inputs)
        names = self.contract.arm.joint_names
        return residual_of(action[0].astype(np.float64), self.contract.action, stamp_ns, names)
