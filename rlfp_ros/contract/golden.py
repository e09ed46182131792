"""Golden data: recorded inputs and outputs that deployment must repeat.

`golden.npz` holds two sets. `encoder/NAME` and `policy/NAME` are inputs and outputs of the networks alone, by which
each machine checks its ONNX Runtime. `frames/NAME` are the fields of `GoldenFrames`, by which the deployed code is
checked from the image to the residual.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from rlfp_ros.schema import ConfigurationError

# ONNX Runtime chooses other kernels on other processors. On one machine outputs agree to 1e-5.
GOLDEN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class GoldenFrames:
    """T frames of an episode: what the training environment observed and which residual followed.

    `perception.encoder.Perception` and `control.policy.Policy` repeat these frames when they are constructed, through
    preprocessing, observation and action scaling, so that any difference from training is found before the arm moves.
    """

    stamps_ns: np.ndarray  # int64 [T]
    images: np.ndarray  # uint8 [T, H, W, 3] rgb, as the encoder takes them
    joint_names: np.ndarray  # str [J]
    positions: np.ndarray  # [T, J] rad
    velocities: np.ndarray  # [T, J] rad/s
    gripper_widths: np.ndarray  # [T] m
    goals: np.ndarray  # [T, 3] m in the base frame; NaN if there is no goal
    features: np.ndarray  # float32 [T, K, 3] or [T, Z]
    domain_shifts: np.ndarray  # [T]
    proprioception: np.ndarray  # float32 [T, P]
    twists: np.ndarray  # [T, 6] m/s, rad/s: the residual; [T, J] rad/s for actions of kind joint_velocity
    gripper_commands: np.ndarray  # [T] m; NaN if there is no gripper
    # Names of the inputs ("image" and those of the policy) without which an output changes; None if not recorded.
    covered: np.ndarray | None = None
    # For a policy that observes past actions: the M actions that the controller admitted, in order, with the stamps of
    # their images; how many of them had been received at each frame; and what a decision on that frame observed.
    applied: np.ndarray | None = None  # float32 [M, A]
    applied_stamps_ns: np.ndarray | None = None  # int64 [M]
    received: np.ndarray | None = None  # int64 [T]
    past_actions: np.ndarray | None = None  # float32 [T, N, A], newest last

    def received_before(self) -> list[list[tuple[int, np.ndarray]]]:
        """Return, for each frame, the stamps and admitted actions [A] that were received since the frame before."""
        found: list[list[tuple[int, np.ndarray]]] = [[] for _ in self.stamps_ns]
        if self.applied is None or self.applied_stamps_ns is None or self.received is None:
            return found
        first = 0
        for number, count in enumerate(self.received.tolist()):
            found[number] = list(
                zip(self.applied_stamps_ns[first:count].tolist(), self.applied[first:count], strict=True)
            )
            first = count
        return found


OPTIONAL = ("covered", "applied", "applied_stamps_ns", "received", "past_actions")


def load_golden_frames(file: Path) -> GoldenFrames:
    """Read the golden frames of `golden.npz`. Raises ConfigurationError if a field is missing."""
    names = [field.name for field in fields(GoldenFrames)]
    with np.load(file) as golden:
        arrays = {name: golden[f"frames/{name}"] for name in names if f"frames/{name}" in golden}
    for name in set(names) - set(OPTIONAL):
        if name not in arrays:
            raise ConfigurationError(
                f"{file}: frames/{name} is missing, so nothing shows that deployment repeats "
                f"training; write the bundle again with `rlfp export {file.parent} --out {file.parent}`"
            )
    return GoldenFrames(**arrays)


def check_goal(file: Path, frames: GoldenFrames, goal: str) -> None:
    """Check that the frames were recorded with the kind of goal that the contract declares.

    Raises
    ------
    ConfigurationError
        If they have a goal point that the policy node would drop, or lack the one that it would pass on.
    """
    recorded = not np.isnan(frames.goals).any()
    if recorded != (goal == "point"):
        found = "with a goal point" if recorded else "without a goal point"
        raise ConfigurationError(
            f"{file.with_name('bundle.yaml')}: goal is {goal}, but {file.name} was recorded {found}, so the policy "
            "would not see what it saw in training; train the policy again and export it"
        )


def check_past_actions(file: Path, frames: GoldenFrames, count: int) -> None:
    """Check that the frames were recorded with as many past actions as the contract declares.

    Raises
    ------
    ConfigurationError
        If they were not, so that nothing shows that deployment repeats what training observed.
    """
    recorded = 0 if frames.past_actions is None else frames.past_actions.shape[1]
    if recorded != count:
        raise ConfigurationError(
            f"{file.with_name('bundle.yaml')}: policy.past_actions is {count}, but {file.name} was recorded with "
            f"{recorded}; train the policy again and export it"
        )


def check_network(file: Path, golden_file: Path, session: Any) -> None:
    """Check that a network repeats its golden outputs: a file that loads can still be another network.

    Raises
    ------
    ConfigurationError
        If an input or output has no golden data, or an output differs by more than `GOLDEN_TOLERANCE`.
    """
    part = file.name.removesuffix(".onnx")
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    with np.load(golden_file) as golden:
        missing = {f"{part}/{name}" for name in (*inputs, *outputs)} - set(golden)
        if missing:
            raise ConfigurationError(f"{golden_file}: {sorted(missing)[0]} is missing; export the bundle again")
        results = session.run(outputs, {name: golden[f"{part}/{name}"] for name in inputs})
        for output, result in zip(outputs, results, strict=True):
            expected = golden[f"{part}/{output}"]
            error = float(np.max(np.abs(result - expected))) if result.shape == expected.shape else np.inf
            if not error <= GOLDEN_TOLERANCE * max(1.0, float(np.max(np.abs(expected)))):
                raise ConfigurationError(
                    f"{file}: {output} differs from golden.npz by {error:.2g}, "
                    f"expected at most {GOLDEN_TOLERANCE:g}; the file belongs to another bundle, export it again"
                )
