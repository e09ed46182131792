"""Records the frames and outputs that a bundle must repeat, in the training environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rlfp_ros.contract import GOLDEN_TOLERANCE, Contract, GoldenFrames
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.observation import ObservationContract, Observer
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.learning.export.build import POLICY_OUTPUTS, outputs_of
from rlfp_ros.learning.export.networks import Networks
from rlfp_ros.perception.domain_shift import DomainShift
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import GOLDEN, CountedSeeds
from rlfp_ros.simulation.environment import CameraFrame, ManipulationEnv

AGREEMENT = 1e-5  # between PyTorch and ONNX Runtime: absolute below 1, relative above
GOLDEN_FRAMES = 5  # enough for the stack to fill and the arm to move
MAX_GOLDEN_FRAMES = 30  # a policy with discrete actions needs more frames until each input has changed an action


@dataclass(frozen=True)
class PlayedFrame:
    """One frame of an episode in the training environment."""

    image: np.ndarray  # uint8 [H, W, 3]
    joint_state: JointState
    stamp_ns: int
    first: bool  # of its episode
    encoded: tuple[np.ndarray, ...]  # as `outputs_of`
    inputs: dict[str, np.ndarray]  # of the policy at its decision, batch 1
    acted: tuple[np.ndarray, ...]  # as POLICY_OUTPUTS
    proprioception: np.ndarray | None = None  # [P] at this frame; None: that of the inputs
    decides: bool = True  # otherwise the action of an earlier frame is held
    applied: tuple[tuple[int, np.ndarray], ...] = ()  # stamps and admitted actions [A] received since the frame before

    @property
    def joints_seen(self) -> np.ndarray:
        """The proprioception [P] at this frame."""
        return self.inputs["proprioception"][0] if self.proprioception is None else self.proprioception


def play(contract: Contract, arm: Arm, networks: Networks, count: int) -> Iterator[PlayedFrame]:
    """Play `count` frames in the training environment, without the deployed perception and policy.

    The profile is always `train`: from an image to a residual the code is the same under every profile.

    Raises
    ------
    ConfigurationError
        If the scene's camera is not the contract's, or the task's goal is not what the contract declares.
    """
    camera = contract.camera
    encoded_frame: list[tuple[np.ndarray, ...]] = []

    def perceive(image: np.ndarray) -> np.ndarray:
        encoded_frame[:] = [networks.encode({"image": np.ascontiguousarray(image)[None]})]
        return encoded_frame[0][0][0]

    env = ManipulationEnv(
        contract.task,
        arm,
        "train",
        "features",
        perceive,
        image_size=camera.height,
        behaviour=contract,
        observed=ObservationContract.of(contract),
        seeds=CountedSeeds(GOLDEN.first),
    )
    if env.world.camera.contract.model_dump(exclude={"tolerance"}) != camera.model_dump(exclude={"tolerance"}):
        raise ConfigurationError(
            f"bundle {contract.name}: its camera is not the one of sim/scenes, so training cannot be repeated; restore "
            "the scene that it was trained in"
        )
    state = np.zeros((1, contract.policy.state_size), np.float32)
    received: list[tuple[int, np.ndarray]] = []
    held: list[tuple[CameraFrame, tuple[tuple[int, np.ndarray], ...]]] = []  # with the messages received before
    observer = Observer(arm, ObservationContract(contract.proprioception))
    env.deployment.on_applied.append(lambda admitted: received.append((admitted.stamp_ns, _action(contract, admitted))))
    env.on_held = lambda frame: held.append((replace(frame, image=frame.image.copy()), _taken(received)))
    observation, _ = env.reset()
    _check_goal(contract, bool(observation["goal_mask"].all()))
    first, left = True, count
    while left > 0:
        inputs = {name: observation[name][None] for name in contract.policy.inputs if name != "state"}
        inputs["state"] = state
        acted = networks.act(inputs)
        decision = PlayedFrame(
            env.render().copy(),
            env.joint_state,
            env.image_stamp_ns,
            first,
            encoded_frame[0],
            inputs,
            acted,
            applied=_taken(received),
        )
        yield decision
        state, first = acted[1], False
        observation, _, terminated, truncated, _ = env.step(acted[0][0])
        for frame, before in held[: left - 1]:
            yield _held(decision, frame, networks, observer, before)
        left -= 1 + len(held)
        held.clear()
        if terminated or truncated:
            received.clear()
            observation, _ = env.reset()
            state, first = np.zeros_like(state), True
    env.close()


def _taken(received: list[tuple[int, np.ndarray]]) -> tuple[tuple[int, np.ndarray], ...]:
    """Return the list's content and clear it."""
    taken = tuple(received)
    received.clear()
    return taken


def _action(contract: Contract, admitted: Residual) -> np.ndarray:
    """Return what the controller admitted, [A] in action units, independently of the deployment code."""
    axes = contract.action.axes(contract.arm.joint_names)
    action = np.zeros(len(contract.action.components), np.float32)
    for place, (component, scale) in enumerate(zip(contract.action.components, contract.action.scale, strict=True)):
        if component != "gripper":
            action[place] = admitted.twist[axes.index(component)] / scale
        elif admitted.gripper_width is not None:
            action[place] = admitted.gripper_width / scale - 1
    return action


def _held(
    decision: PlayedFrame,
    frame: CameraFrame,
    networks: Networks,
    observer: Observer,
    applied: tuple[tuple[int, np.ndarray], ...],
) -> PlayedFrame:
    """Return a frame for which the action of `decision` is held."""
    return replace(
        decision,
        image=frame.image,
        joint_state=frame.joint_state,
        stamp_ns=frame.stamp_ns,
        first=False,
        encoded=networks.encode({"image": np.ascontiguousarray(frame.image)[None]}),
        proprioception=observer.proprioception(frame.joint_state),
        decides=False,
        applied=applied,
    )


def _check_goal(contract: Contract, given: bool) -> None:
    if given != (contract.goal == "point"):
        what = "gives the policy a goal point" if given else "gives the policy no goal point"
        raise ConfigurationError(
            f"bundle {contract.name}: goal is {contract.goal}, but task {contract.task} {what}; "
            "the settings of sim/tasks changed since training, train again"
        )


# --- golden data ------------------------------------------------------------------------------------------------------


def lost_input(inputs: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the policy's inputs as if `name` had been lost: zeros; for a goal also a mask of zero."""
    lost = {name: np.zeros_like(inputs[name])}
    return inputs | lost | ({"goal_mask": np.zeros_like(inputs["goal_mask"])} if name == "goal" else {})


def covered_inputs(networks: Networks, frames: Sequence[PlayedFrame]) -> tuple[str, ...]:
    """Return the inputs whose loss changes an output in one of these frames and is therefore detected.

    "image" for the encoder's features, and those of the policy for its action.
    """
    black = {"image": np.zeros_like(frames[0].image)[None]}
    seen_black = networks.encode(black)[0]
    covered = ["image"] if any(_differs(frame.encoded[0], seen_black) for frame in frames) else []
    for name in frames[0].inputs:
        for frame in frames:
            if _differs(frame.acted[0], networks.act(lost_input(frame.inputs, name))[0]):
                covered.append(name)
                break
    return tuple(covered)


def _differs(one: np.ndarray, other: np.ndarray) -> bool:
    return float(np.max(np.abs(one - other))) > 10 * GOLDEN_TOLERANCE  # well above the tolerance of deployment


def choose_golden_frames(
    networks: Networks, played: Sequence[PlayedFrame]
) -> tuple[list[PlayedFrame], tuple[str, ...]]:
    """Choose the first frames of the first episode: the fewest that cover as many inputs as possible.

    Returns
    -------
    frames
        At least `GOLDEN_FRAMES`, at most `MAX_GOLDEN_FRAMES` decisions, with the frames for which they are held.
    covered
        The inputs that they cover.
    """
    length = next((number for number, frame in enumerate(played) if number and frame.first), len(played))
    longest = list(played[: _length(played[:length], MAX_GOLDEN_FRAMES)])
    possible = covered_inputs(networks, longest)
    for count in range(_length(longest, GOLDEN_FRAMES), len(longest)):
        if covered_inputs(networks, longest[:count]) == possible:
            return longest[:count], possible
    return longest, possible


def _length(frames: Sequence[PlayedFrame], decisions: int) -> int:
    """Return the number of frames up to the end of as many decisions, or all."""
    numbers = [number for number, frame in enumerate(frames) if frame.decides]
    return numbers[decisions] if len(numbers) > decisions else len(frames)


def check_goal_is_used(contract: Contract, networks: Networks, played: Sequence[PlayedFrame]) -> None:
    """Check that a policy whose task has a goal point reacts to it in at least one of the played frames.

    Raises
    ------
    ConfigurationError
        If losing the goal changes no action.
    """
    if contract.goal != "point":
        return
    if not any(_differs(frame.acted[0], networks.act(lost_input(frame.inputs, "goal"))[0]) for frame in played):
        raise ConfigurationError(
            f"bundle {contract.name}: task {contract.task} has a goal point, but the policy ignores it: without the "
            f"goal no action of {len(played)} frames changes; train longer, or with other settings"
        )


def golden_frames(contract: Contract, frames: Sequence[PlayedFrame], covered: tuple[str, ...]) -> GoldenFrames:
    """Compute the golden frames from played frames, independently of the deployment code."""
    shift = DomainShift(contract.feature_statistics)
    axes = contract.action.axes(contract.arm.joint_names)
    twists, grippers = np.zeros((len(frames), len(axes))), np.full(len(frames), np.nan)
    for row, frame in enumerate(frames):
        for value, component, scale in zip(
            frame.acted[0][0], contract.action.components, contract.action.scale, strict=True
        ):
            if component == "gripper":
                grippers[row] = scale * (1 + float(value))
            else:
                twists[row, axes.index(component)] = scale * float(value)
    applied = [message for frame in frames for message in frame.applied]
    past: dict[str, np.ndarray] = {}
    if contract.policy.past_actions:
        past["applied"] = np.array([action for _, action in applied], np.float32).reshape(
            -1, len(contract.action.components)
        )
        past["applied_stamps_ns"] = np.array([stamp for stamp, _ in applied], np.int64)
        past["received"] = np.cumsum([len(frame.applied) for frame in frames])
        past["past_actions"] = np.stack([frame.inputs["past_actions"][0] for frame in frames])
    goals = [frame.inputs["goal"][0] if frame.inputs["goal_mask"].all() else np.full(3, np.nan) for frame in frames]
    return GoldenFrames(
        stamps_ns=np.array([frame.stamp_ns for frame in frames]),
        images=np.stack([frame.image for frame in frames]),
        joint_names=np.array(contract.arm.joint_names),
        positions=np.stack([frame.joint_state.positions for frame in frames]),
        velocities=np.stack([frame.joint_state.velocities for frame in frames]),
        gripper_widths=np.array([frame.joint_state.gripper_width for frame in frames]),
        goals=np.stack(goals),
        features=np.stack([frame.encoded[0][0] for frame in frames]),
        domain_shifts=np.array([shift(frame.encoded[-1][0]) for frame in frames]),
        proprioception=np.stack([frame.joints_seen for frame in frames]),
        twists=twists,
        gripper_commands=grippers,
        covered=np.array(covered),
        **past,
    )


def golden_arrays(tensors: dict[str, np.ndarray], frames: GoldenFrames) -> dict[str, np.ndarray]:
    """Return the contents of `golden.npz`: inputs and outputs of the networks, and the frames."""
    arrays = {f"frames/{field.name}": getattr(frames, field.name) for field in fields(frames)}
    return tensors | {name: values for name, values in arrays.items() if values is not None}


def golden_tensors(contract: Contract, networks: Networks, frame: PlayedFrame) -> dict[str, np.ndarray]:
    """Return inputs and outputs of the networks, with which every machine checks its ONNX Runtime."""
    image = {"image": frame.image[None]}
    arrays = {f"encoder/{name}": value for name, value in image.items()}
    encoded = zip(outputs_of(contract.encoder), networks.encode(image), strict=True)
    arrays |= {f"encoder/{name}": value for name, value in encoded}
    arrays |= {f"policy/{name}": value for name, value in frame.inputs.items()}
    return arrays | {
        f"policy/{name}": value for name, value in zip(POLICY_OUTPUTS, networks.act(frame.inputs), strict=True)
    }


# --- PyTorch against ONNX Runtime -------------------------------------------------------------------------------------


def disagreement(
    contract: Contract, trained: Networks, exported: Networks, played: Sequence[PlayedFrame], observations: int
) -> float:
    """Measure the largest difference between PyTorch and ONNX Runtime.

    Raises
    ------
    ConfigurationError
        If it is above `AGREEMENT`.
    """
    rng = np.random.default_rng(0)
    shapes = {name: value.shape for name, value in played[0].inputs.items()}
    worst = 0.0
    for kind in ("random", "real"):
        for number in range(observations):
            if kind == "real":
                frame = played[number]
                image, inputs = {"image": frame.image[None]}, frame.inputs
            else:
                image = {"image": rng.integers(0, 256, contract.encoder.inputs["image"], dtype=np.uint8)}
                inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
            pairs = [
                *zip(outputs_of(contract.encoder), trained.encode(image), exported.encode(image), strict=True),
                *zip(POLICY_OUTPUTS, trained.act(inputs), exported.act(inputs), strict=True),
            ]
            for name, expected, found in pairs:
                error = float(np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected))))
                worst = max(worst, error)
                if not error <= AGREEMENT:
                    raise ConfigurationError(
                        f"{name}: ONNX Runtime differs from PyTorch by {error:.2g} on {kind} observation {number}, "
                        f"expected at most {AGREEMENT:g}; no bundle was written, use the versions in setup.cfg"
                    )
    return worst
