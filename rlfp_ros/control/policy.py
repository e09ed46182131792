"""The bundle's policy: decides on observations, turns the network's output into a residual, and holds it between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rlfp_ros.contract import GOLDEN_TOLERANCE, Bundle, GoldenFrames
from rlfp_ros.control.actions import decides, residual_of
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.base_controllers.base_controller import check_follows
from rlfp_ros.control.joint_faults import not_finite
from rlfp_ros.control.observation import Observation, ObservationContract, Observer
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.schema import ConfigurationError

__all__ = [
    "Observation",
    "ObservationContract",
    "Observer",
    "Policy",
    "PolicyMemory",
    "PolicyStep",
    "decides",
    "residual_of",
]

# Number of frames whose median interval is checked. More than half of them must be lost before a good camera seems too
# slow: with one frame in ten lost, this happens to 15 frames within minutes and to 30 almost never.
RATE_FRAMES = 30
RATE_RATIO = 1.5  # frames may come this many times faster or slower than in training


@dataclass(frozen=True)
class PolicyStep:
    """The answer to one image.

    Attributes
    ----------
    observation
        Inputs of the network at the decision.
    action
        [A] float64 in [-1, 1], in the order of the contract's action components.
    residual
        The action in SI units, with the image's stamp.
    decided
        Whether the policy decided on this image; otherwise this is its last decision, held.
    """

    observation: Observation
    action: np.ndarray
    residual: Residual
    decided: bool = True


@dataclass(frozen=True)
class PolicyMemory:
    """The policy's memory of earlier images.

    Attributes
    ----------
    stack
        Features [K, 3] of the last decisions, oldest first; empty before an episode's first decision.
    state
        Recurrent state [1, S], float32; zeros before an episode's first decision.
    applied
        Admitted actions [A], oldest first.
    decision
        The last decision, whose action is held; None before an episode's first.
    """

    stack: tuple[np.ndarray, ...]
    state: np.ndarray
    applied: tuple[np.ndarray, ...] = ()
    decision: PolicyStep | None = None


class Policy:
    """Runs `policy.onnx` and keeps its memory. Call `act` once per image, in order.

    A policy that decides on every k-th image holds its action on the others; its memory, the recurrent state and the
    stack of features, advances with decisions only. `actions.decides` says which images those are.

    Raises
    ------
    ConfigurationError
        If the bundle is for another arm, contradicts itself, or does not repeat training's golden frames.
    """

    def __init__(self, bundle: Bundle, arm: Arm) -> None:
        contract = bundle.contract
        if tuple(arm.joint_names) != contract.arm.joint_names:
            raise ConfigurationError(
                f"{bundle.directory / 'bundle.yaml'}: arm.joint_names is {list(contract.arm.joint_names)}, but "
                f"arm {arm.name} has {list(arm.joint_names)}; choose a bundle for {arm.name}, "
                f"or launch with arm:={contract.arm.name}"
            )
        check_follows(contract, str(bundle.directory / "bundle.yaml"))
        self.contract = contract
        self._session = bundle.session("policy.onnx")
        self._observer = Observer(arm, ObservationContract.of(contract), len(contract.action.components))
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
                f"was recorded at {rate:.1f}; an action is published for every image: restore it, or train at this rate"
            )
        self.reset()
        no_effort = np.zeros(len(golden.joint_names))
        received = golden.received_before()
        for number, stamp in enumerate(golden.stamps_ns.tolist()):
            for applied_ns, action in received[number]:
                self.saw_applied(applied_ns, action)
            if golden.past_actions is not None and self._decides(stamp):
                self._check_past_actions(golden.past_actions[number], number)
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
                    "feature stack, the images that decide or what is fed back is not training's: use the rlfp_ros "
                    "that wrote the bundle"
                )
        self.reset()

    def _check_past_actions(self, expected: np.ndarray, number: int) -> None:
        found = self._observer.past_actions()
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=GOLDEN_TOLERANCE):
            raise ConfigurationError(
                f"{self._source / 'golden.npz'}: past actions of golden frame {number} are "
                f"{np.round(found, 3).tolist()}, but training saw {np.round(expected, 3).tolist()}; their order, their "
                "scale or which of them count is not training's: use the rlfp_ros that wrote the bundle"
            )

    def reset(self) -> None:
        """Begin a new episode: forget the last one."""
        self._observer.reset()
        self._stamps_ns.clear()
        self._state = np.zeros((1, self.contract.policy.state_size), np.float32)
        self._decision: PolicyStep | None = None

    @property
    def memory(self) -> PolicyMemory:
        """The policy's memory; set it to continue from another point of a recording."""
        return PolicyMemory(self._observer.stack, self._state, self._observer.applied, self._decision)

    @memory.setter
    def memory(self, memory: PolicyMemory) -> None:
        self._observer.stack = memory.stack
        self._observer.applied = memory.applied
        self._state, self._decision = memory.state, memory.decision

    @property
    def observes_past_actions(self) -> bool:
        """Whether the policy needs `saw_applied` to be called."""
        return self.contract.policy.past_actions > 0

    def saw_applied(self, stamp_ns: int, action: np.ndarray) -> None:
        """Take note of what the controller admitted of an answer, as `Observer.saw_applied` does."""
        self._observer.saw_applied(stamp_ns, action)

    def _decides(self, stamp_ns: int) -> bool:
        decided_ns = None if self._decision is None else self._decision.residual.stamp_ns
        return decides(self.contract.action, decided_ns, stamp_ns)

    def act(
        self, features: np.ndarray, joint_state: JointState, stamp_ns: int, goal: np.ndarray | None = None
    ) -> Residual:
        """Compute the residual for one image, live.

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
            If images come at another rate than in training.
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
        hold: bool = True,
    ) -> PolicyStep:
        """Answer one image like `act`, but at any rate, and return the network's inputs too.

        Tools that replay a recording call this. `alter` changes the observation before inference, and `hold` decides
        on every image if it is False, to test the effect of a mistake; the other parameters are those of `act`.

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
        if hold and self._decision is not None and not self._decides(stamp_ns):
            return replace(self._decision, residual=replace(self._decision.residual, stamp_ns=stamp_ns), decided=False)
        observation = self._observer.observe(features, joint_state, goal)
        if alter is not None:
            observation = alter(observation)
        inputs = {name: value[None] for name, value in observation.items()} | {"state": self._state}
        output, self._state = self._session.run(("action", "next_state"), inputs)
        action = output[0].astype(np.float64)
        residual = residual_of(action, self.contract.action, stamp_ns, self.contract.arm.joint_names)
        self._decision = PolicyStep(observation, action, residual)
        return self._decision

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
