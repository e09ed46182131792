"""Records the frames and outputs that a bundle must repeat, in the training environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from rlfp_ros.contract import GOLDEN_TOLERANCE, Contract, GoldenFrames
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.learning.export.build import ENCODER_OUTPUTS, POLICY_INPUTS, POLICY_OUTPUTS
from rlfp_ros.learning.export.networks import Networks
from rlfp_ros.perception.domain_shift import DomainShift
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import GOLDEN
from rlfp_ros.simulation.environment import CountedSeeds, ManipulationEnv

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
    encoded: tuple[np.ndarray, ...]  # as ENCODER_OUTPUTS
    inputs: dict[str, np.ndarray]  # of the policy, batch 1
    acted: tuple[np.ndarray, ...]  # as POLICY_OUTPUTS


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
    observation, _ = env.reset()
    _check_goal(contract, bool(observation["goal_mask"].all()))
    first = True
    for _ in range(count):
        inputs = {name: observation[name][None] for name in POLICY_INPUTS if name != "state"} | {"state": state}
        acted = networks.act(inputs)
        yield PlayedFrame(
            env.render().copy(), env.joint_state, env.world.image_stamp_ns, first, encoded_frame[0], inputs, acted
        )
        state, first = acted[1], False
        observation, _, terminated, truncated, _ = env.step(acted[0][0])
        if terminated or truncated:
            observation, _ = env.reset()
            state, first = np.zeros_like(state), True
    env.close()


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

    "image" for the encoder's features, and those of POLICY_INPUTS for the policy's action.
    """
    black = {"image": np.zeros_like(frames[0].image)[None]}
    seen_black = networks.encode(black)[0]
    covered = ["image"] if any(_differs(frame.encoded[0], seen_black) for frame in frames) else []
    for name in POLICY_INPUTS:
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
        At least `GOLDEN_FRAMES`, at most `MAX_GOLDEN_FRAMES` frames.
    covered
        The inputs that they cover.
    """
    length = next((number for number, frame in enumerate(played) if number and frame.first), len(played))
    longest = list(played[: min(length, MAX_GOLDEN_FRAMES)])
    possible = covered_inputs(networks, longest)
    for count in range(min(GOLDEN_FRAMES, len(longest)), len(longest)):
        if covered_inputs(networks, longest[:count]) == possible:
            return longest[:count], possible
    return longest, possible


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
        domain_shifts=np.array([shift(frame.encoded[3][0]) for frame in frames]),
        proprioception=np.stack([frame.inputs["proprioception"][0] for frame in frames]),
        twists=twists,
        gripper_commands=grippers,
        covered=np.array(covered),
    )


def golden_arrays(tensors: dict[str, np.ndarray], frames: GoldenFrames) -> dict[str, np.ndarray]:
    """Return the contents of `golden.npz`: inputs and outputs of the networks, and the frames."""
    arrays = {f"frames/{field.name}": getattr(frames, field.name) for field in fields(frames)}
    return tensors | arrays


def golden_tensors(networks: Networks, frame: PlayedFrame) -> dict[str, np.ndarray]:
    """Return inputs and outputs of the networks, with which every machine checks its ONNX Runtime."""
    image = {"image": frame.image[None]}
    arrays = {f"encoder/{name}": value for name, value in image.items()}
    arrays |= {f"encoder/{name}": value for name, value in zip(ENCODER_OUTPUTS, networks.encode(image), strict=True)}
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
                *zip(ENCODER_OUTPUTS, trained.encode(image), exported.encode(image), strict=True),
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
