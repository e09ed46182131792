"""Builds the inputs of a policy, decision by decision: in training, in deployment and in tools that replay a bag."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlfp_ros.contract import Contract, JointQuantity
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.kinematics import Kinematics

Observation = dict[str, np.ndarray]  # inputs of policy.onnx for one decision, by name, float32


@dataclass(frozen=True)
class ObservationContract:
    """The policy's inputs: joint quantities, and how many features and admitted actions it gets.

    Attributes
    ----------
    proprioception
        Joint quantities, in order.
    feature_stack
        Number of decisions whose features are stacked, newest last.
    past_actions
        N, the number of admitted actions: those of the last N messages on `policy/residual_applied` that were received
        when the decision is taken, newest last, in action units; 0 for none. The controller sends one for each image,
        so a policy that decides on every k-th image needs N = k * n to see the actions of n decisions.
    """

    proprioception: tuple[JointQuantity, ...] = (
        "joint_positions",
        "joint_velocities",
        "gripper_width",
        "tool_position",
        "tool_direction",
    )
    feature_stack: int = 2
    past_actions: int = 0

    @classmethod
    def of(cls, contract: Contract) -> ObservationContract:
        """Return the observation that a bundle declares."""
        return cls(contract.proprioception, contract.policy.feature_stack, contract.policy.past_actions)

    @property
    def decides_on_delivery(self) -> bool:
        """Whether simulation must take a decision when its image is delivered, as an arm does.

        The controller admits actions while an image is on its way, so only then is it known which ones were received.
        Without past actions a decision at the image's exposure is the same, because nothing in it changes later.
        """
        return self.past_actions > 0


class Observer:
    """Builds a policy's inputs. Call `reset()` between episodes, and `saw_applied` on each admitted action.

    Parameters
    ----------
    arm
        The arm, for the tool's pose.
    contract
        What the policy observes.
    action_size
        A, the number of action components; needed for past actions.
    """

    def __init__(self, arm: Arm, contract: ObservationContract, action_size: int = 0) -> None:
        if contract.past_actions and not action_size:
            raise ValueError("action_size is 0, expected the number of action components, because of past_actions")
        self._contract = contract
        self._kinematics = Kinematics(arm)
        self._stack: deque[np.ndarray] = deque(maxlen=contract.feature_stack)
        self._action_size = action_size
        self._applied: deque[np.ndarray] = deque(maxlen=contract.past_actions)
        self._applied_ns: int | None = None  # stamp of the newest
        joints = len(arm.joint_names)
        sizes = {
            "joint_positions": joints,
            "joint_velocities": joints,
            "gripper_width": 1,
            "tool_position": 3,
            "tool_direction": 3,
        }
        self.proprioception_size = sum(sizes[name] for name in contract.proprioception)

    def reset(self) -> None:
        """Forget earlier features and actions."""
        self._stack.clear()
        self._applied.clear()
        self._applied_ns = None

    @property
    def stack(self) -> tuple[np.ndarray, ...]:
        """Features [K, 3] of the last decisions, oldest first; empty before an episode's first decision."""
        return tuple(self._stack)

    @stack.setter
    def stack(self, features: Sequence[np.ndarray]) -> None:
        self._stack.clear()
        self._stack.extend(features)

    @property
    def applied(self) -> tuple[np.ndarray, ...]:
        """Admitted actions [A], oldest first, at most N; empty before an episode's first."""
        return tuple(self._applied)

    @applied.setter
    def applied(self, actions: Sequence[np.ndarray]) -> None:
        self._applied.clear()
        self._applied.extend(actions)
        self._applied_ns = None

    def saw_applied(self, stamp_ns: int, action: np.ndarray) -> None:
        """Take note of what the controller admitted of the residual for one image.

        A second message for the same image (its answer was sent again) counts once, with its first content.

        Parameters
        ----------
        stamp_ns
            Stamp of the image.
        action
            [A], in action units; zeros if nothing was admitted.
        """
        if self._applied_ns is None or stamp_ns > self._applied_ns:
            self._applied_ns = stamp_ns
            self._applied.append(np.asarray(action, np.float32))

    def past_actions(self) -> np.ndarray:
        """Return float32 [N, A], newest last; rows are zero if fewer than N actions were admitted in the episode."""
        missing = self._contract.past_actions - len(self._applied)
        none_yet = np.zeros((missing, self._action_size), np.float32)
        return np.concatenate([none_yet, *(action[None] for action in self._applied)])

    def proprioception(self, joint_state: JointState) -> np.ndarray:
        """Return [P] float32 in the contract's order: rad, rad/s, m, m, unit vector (the tool frame's z axis)."""
        tool_position, tool_rotation, _ = self._kinematics.evaluate(joint_state.positions)
        parts: dict[str, np.ndarray] = {
            "joint_positions": joint_state.positions,
            "joint_velocities": joint_state.velocities,
            "gripper_width": np.array([joint_state.gripper_width]),
            "tool_position": tool_position,
            "tool_direction": tool_rotation[:, 2],
        }
        return np.concatenate([parts[name] for name in self._contract.proprioception]).astype(np.float32)

    def observe(self, features: np.ndarray, joint_state: JointState, goal: np.ndarray | None = None) -> Observation:
        """Return the inputs of one decision.

        Parameters
        ----------
        features
            [K, 3] or [Z] of the image.
        joint_state
            The joints at the image's exposure.
        goal
            [3] m in the base frame, or None.

        Returns
        -------
        Observation
            float32: features [stack, K, 3] or [stack, Z] newest last, proprioception [P], goal [3] m, goal_mask [1],
            and past_actions [N, A] if N is above 0. The first decision of an episode fills the whole stack.
        """
        if not self._stack:
            self._stack.extend([features] * self._contract.feature_stack)
        else:
            self._stack.append(features)
        observation = {
            "features": np.stack(self._stack).astype(np.float32, copy=False),
            "proprioception": self.proprioception(joint_state),
            "goal": np.zeros(3, np.float32) if goal is None else np.asarray(goal, np.float32),
            "goal_mask": np.array([goal is not None], np.float32),
        }
        if self._contract.past_actions:
            observation["past_actions"] = self.past_actions()
        return observation
