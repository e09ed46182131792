"""The bundle's policy: builds observations and turns the network's output into a residual.

Training uses the same class, so that the policy runs on the observations that it was trained on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlfp_ros.contract import (
    GOLDEN_TOLERANCE,
    ActionContract,
    Bundle,
    Contract,
    GoldenFrames,
    JointQuantity,
)
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.joint_faults import not_finite
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.schema import ConfigurationError

# Number of frames whose median interval is checked. More than half of them must be lost before a good camera seems too
# slow: with one frame in ten lost, this happens to 15 frames within minutes and to 30 almost never.
RATE_FRAMES = 30
RATE_RATIO = 1.5  # frames may come this many times faster or slower than in training


@dataclass(frozen=True)
class ObservationContract:
    """The joint quantities that a policy observes, and the number of feature frames."""

    proprioception: tuple[JointQuantity, ...] = (
        "joint_positions",
        "joint_velocities",
        "gripper_width",
        "tool_position",
        "tool_direction",
    )
    feature_stack: int = 2

    @classmethod
    def of(cls, contract: Contract) -> ObservationContract:
        """Return the observation that a bundle declares."""
        return cls(contract.proprioception, contract.policy.feature_stack)


class Observer:
    """Builds a policy's inputs frame by frame. Call `reset()` between episodes."""

    def __init__(self, arm: Arm, contract: ObservationContract) -> None:
        self._contract = contract
        self._kinematics = Kinematics(arm)
        self._stack: deque[np.ndarray] = deque(maxlen=contract.feature_stack)
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
        """Forget earlier frames."""
        self._stack.clear()

    @property
    def stack(self) -> tuple[np.ndarray, ...]:
        """Features [K, 3] of the last frames, oldest first; empty before an episode's first frame."""
        return tuple(self._stack)

    @stack.setter
    def stack(self, features: Sequence[np.ndarray]) -> None:
        self._stack.clear()
        self._stack.extend(features)

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

    def observe(
        self, features: np.ndarray, joint_state: JointState, goal: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return the inputs for one frame, float32: features [stack, K, 3] newest last, proprioception [P], goal [3] m,
        goal_mask [1]. The first frame of an episode fills the whole stack."""
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
    """Convert an action in [-1, 1] to a residual in SI units. No other code applies the action scale.

    `joint_names` of the arm are needed for actions of kind joint_velocity.
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


Observation = dict[str, np.ndarray]  # inputs of policy.onnx for one frame, by name, float32


@dataclass(frozen=True)
class PolicyMemory:
    """The policy's memory of earlier frames.

    Attributes
    ----------
    stack
        Features [K, 3] of the last frames, oldest first; empty before an episode's first frame.
    state
        Recurrent state [1, S], float32; zeros before an episode's first frame.
    """

    stack: tuple[np.ndarray, ...]
    state: np.ndarray


@dataclass(frozen=True)
class PolicyStep:
    """The result of one frame.

    Attributes
    ----------
    observation
        Inputs of the network.
    action
        [A] float64 in [-1, 1], in the order of the contract's action components.
    residual
        The action in SI units.
    """

    observation: Observation
    action: np.ndarray
    residual: Residual


class Policy:
    """Runs `policy.onnx` and keeps its memory. Call `act` once per frame, in order."""

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
        self._stamps_ns: deque[int] = deque(maxlen=RATE_FRAMES + 1)
        self._source = bundle.directory
        self.rehearse(bundle.golden_frames())

    def rehearse(
        self, golden: GoldenFrames, receive: Callable[[JointState], JointState] = lambda joint_state: joint_state
    ) -> None:
        """Raise ConfigurationError if the golden frames give another observation or residual than in training.

        `receive` passes the joints through a message. The memory of an earlier episode is lost.
        """
        file = self._source / "golden.npz"
        if tuple(golden.joint_names) != self.contract.arm.joint_names:
            raise ConfigurationError(
                f"{self._source / 'bundle.yaml'}: arm.joint_names is {list(self.contract.arm.joint_names)}, but "
                f"golden.npz was recorded with {golden.joint_names.tolist()}; export the bundle again"
            )
        rate = 1e9 / float(np.median(np.diff(golden.stamps_ns)))
        if abs(rate - self.contract.action.rate_hz) > 0.02 * rate:
            raise ConfigurationError(
                f"{self._source / 'bundle.yaml'}: action.rate_hz is {self.contract.action.rate_hz:g}, but golden.npz "
                f"was recorded at {rate:.1f}; the policy acts once for every frame: restore it, or train at this rate"
            )
        self.reset()
        no_effort = np.zeros(len(golden.joint_names))
        for number, stamp in enumerate(golden.stamps_ns.tolist()):
            joint_state = receive(
                JointState(
                    stamp,
                    golden.positions[number],
                    golden.velocities[number],
                    no_effort,
                    float(golden.gripper_widths[number]),
                )
            )
            found, expected = self._observer.proprioception(joint_state), golden.proprioception[number]
            if found.shape != expected.shape or not np.max(np.abs(found - expected)) <= GOLDEN_TOLERANCE:
                raise ConfigurationError(
                    f"{file}: proprioception of golden frame {number} is {np.round(found, 3).tolist()}, but training "
                    f"saw {np.round(expected, 3).tolist()}; the joints' order, direction or units, or the arm's "
                    "description, are not training's: restore config/arms, or train for this arm"
                )
            goal = golden.goals[number]
            residual = self.act(golden.features[number], joint_state, stamp, None if np.isnan(goal[0]) else goal)
            gripper = np.nan if residual.gripper_width is None else residual.gripper_width
            found = np.append(residual.twist, gripper)
            expected = np.append(golden.twists[number], golden.gripper_commands[number])
            if not np.allclose(found, expected, rtol=0, atol=GOLDEN_TOLERANCE, equal_nan=True):
                raise ConfigurationError(
                    f"{file}: the residual of golden frame {number} is {np.round(found, 4).tolist()} (m/s, rad/s, m), "
                    f"but in training it was {np.round(expected, 4).tolist()}; the action's scale, the order of the "
                    "feature stack or what is fed back is not training's: use the rlfp_ros that wrote the bundle"
                )
        self.reset()

    def reset(self) -> None:
        """Begin a new episode: forget the last one."""
        self._observer.reset()
        self._stamps_ns.clear()
        self._state = np.zeros((1, self.contract.policy.state_size), np.float32)

    @property
    def memory(self) -> PolicyMemory:
        """The policy's memory; set it to continue from another point of a recording."""
        return PolicyMemory(self._observer.stack, self._state)

    @memory.setter
    def memory(self, memory: PolicyMemory) -> None:
        self._observer.stack = memory.stack
        self._state = memory.state

    def act(
        self, features: np.ndarray, joint_state: JointState, stamp_ns: int, goal: np.ndarray | None = None
    ) -> Residual:
        """Compute the residual for one frame, live.

        Parameters
        ----------
        features
            [K, 3] of the image taken at `stamp_ns`.
        joint_state
            The joints at that time.
        stamp_ns
            Stamp of the image, ns.
        goal
            [3] m in the base frame, or None if there is none.

        Raises
        ------
        ConfigurationError
            If frames come at another rate than in training.
        """
        self.check_rate(stamp_ns)
        return self.step(features, joint_state, stamp_ns, goal).residual

    def step(
        self,
        features: np.ndarray,
        joint_state: JointState,
        stamp_ns: int,
        goal: np.ndarray | None = None,
        alter: Callable[[Observation], Observation] | None = None,
    ) -> PolicyStep:
        """Run one frame like `act`, but at any rate, and return the network's inputs too.

        Tools that replay a recording call this. `alter` changes the observation before inference, to test the effect
        of a mistake; the other parameters are those of `act`.

        Raises
        ------
        ConfigurationError
            If features or joints are not finite: a recurrent policy would never forget them.
        """
        fault = not_finite(joint_state, self.contract.arm.joint_names)
        if fault:
            raise ConfigurationError(f"joint_states: {fault}; let the arm's driver publish measured values")
        if not np.isfinite(features).all():
            raise ConfigurationError("features are not finite; look at the image and at perception's log")
        observation = self._observer.observe(features, joint_state, goal)
        if alter is not None:
            observation = alter(observation)
        inputs = {name: value[None] for name, value in observation.items()} | {"state": self._state}
        output, self._state = self._session.run(("action", "next_state"), inputs)
        action = output[0].astype(np.float64)
        residual = residual_of(action, self.contract.action, stamp_ns, self.contract.arm.joint_names)
        return PolicyStep(observation, action, residual)

    def check_rate(self, stamp_ns: int) -> None:
        """Compare the rate of the stamps with training's, because a policy derives speed from consecutive frames."""
        self._stamps_ns.append(stamp_ns)
        if len(self._stamps_ns) <= RATE_FRAMES:
            return
        interval = float(np.median(np.diff(self._stamps_ns)))
        trained = 1e9 / self.contract.action.rate_hz
        if not trained / RATE_RATIO <= interval <= trained * RATE_RATIO:
            raise ConfigurationError(
                f"frames come every {interval * 1e-6:.1f} ms, but bundle {self.contract.name} was trained at "
                f"{self.contract.action.rate_hz:g} Hz ({trained * 1e-6:.1f} ms); set the camera's rate, or lighten the "
                "load if frames are lost"
            )
