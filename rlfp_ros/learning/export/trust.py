"""Makes `trust.onnx` for a finished encoder: renders and alters images, and learns the score that foretells errors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from rlfp_ros.contract import Contract, TrustContract
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.policy import ObservationContract, Observer
from rlfp_ros.learning.cell import Cell
from rlfp_ros.learning.encoders.alterations import CORRUPTIONS, ENCODINGS, Alteration, altered_at_random
from rlfp_ros.learning.encoders.trust import ERROR_M, Encoded, TrustTraining, learn_trust
from rlfp_ros.learning.export.build import ENCODER_OUTPUTS
from rlfp_ros.learning.export.networks import in_onnx_runtime, onnx_of
from rlfp_ros.learning.export.reference import PlayedFrame
from rlfp_ros.learning.recipes.frames import Frames, FrameSource
from rlfp_ros.perception.domain_shift import TRUST_INPUTS, TRUST_OUTPUT
from rlfp_ros.seeds import TRUST
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.scene import load_scene

Encode = Callable[[dict[str, np.ndarray]], tuple[np.ndarray, ...]]
HELD_OUT_SEED = TRUST.first + 500_000
PART = 600  # images that are held in memory at a time


@dataclass(frozen=True)
class LabelledFrames:
    """N images with what is known about them."""

    images: np.ndarray  # uint8 [N, H, W, 3]
    positions: np.ndarray  # [N, 3] m, the object in the optical frame
    joint_positions: np.ndarray  # float32 [N, J] rad
    tool: np.ndarray  # float32 [N, 6], position m and axis, base frame


def make_trust(
    contract: Contract, arm: Arm, encoder: bytes, training: TrustTraining | None = None
) -> tuple[bytes, TrustContract]:
    """Learn the score for an encoder.

    Parameters
    ----------
    contract, arm
        The bundle's contract and arm: task, camera and joints.
    encoder
        Contents of `encoder.onnx`.
    training
        Length of the learning.

    Returns
    -------
    file
        Contents of `trust.onnx`.
    trust
        The part of the contract that describes it.
    """
    training = training or TrustTraining()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    samples, held_out = collect(contract, arm, encoder, training)
    trust = learn_trust(contract.camera, samples, held_out, contract_seed(contract), training)
    torch.set_num_threads(threads)
    example = {name: value[:1] for name, value in zip(TRUST_INPUTS, samples.inputs, strict=True)}
    inputs = {name: tuple(value.shape) for name, value in example.items()}
    return onnx_of(trust, example, (TRUST_OUTPUT,)), TrustContract(
        error_m=ERROR_M, inputs=inputs, outputs={TRUST_OUTPUT: (1, 1)}
    )


def collect(
    contract: Contract, arm: Arm, encoder: bytes, training: TrustTraining
) -> tuple[Encoded, dict[str, Encoded]]:
    """Render images, alter them and run the encoder on them: to learn from, and by family for the thresholds."""
    encode = in_onnx_runtime(encoder, ENCODER_OUTPUTS)
    rng = np.random.default_rng(TRUST.first)
    parts = []
    for frames in rendered(contract, arm, TRUST.first, training.images):
        parts.append(encoded(encode, frames, rng))
        parts += [encoded(encode, frames, rng, altered_at_random) for _ in range(training.altered)]
    held_out: dict[str, list[Encoded]] = {"clean": [], "encodings": [], "corruptions": []}
    for frames in rendered(contract, arm, HELD_OUT_SEED, training.held_out):
        held_out["clean"].append(encoded(encode, frames, rng))
        held_out["encodings"].append(encoded(encode, frames, rng, one_of(ENCODINGS)))
        held_out["corruptions"].append(encoded(encode, frames, rng, one_of(CORRUPTIONS)))
    return joined(parts), {name: joined(family) for name, family in held_out.items()}


def contract_seed(contract: Contract) -> int:
    """The seed of the training that made the encoder, as far as it is known."""
    seed = contract.provenance.get("seed")
    return seed if isinstance(seed, int) and seed >= 0 else 0


def one_of(kinds: Mapping[str, Alteration]) -> Alteration:
    """An alteration that is one of these `kinds`, drawn for each image."""
    alterations = list(kinds.values())
    return lambda image, rng: alterations[int(rng.integers(len(alterations)))](image, rng)


def rendered(contract: Contract, arm: Arm, seed: int, count: int) -> Iterator[LabelledFrames]:
    """Render `count` images as training renders them, and yield them in parts while the next ones are rendered."""
    cell = Cell(contract.task, arm, load_profile("train"), load_scene(image_size=contract.camera.height, arm=arm))
    source = FrameSource(cell, seed, count, other_camera=contract.camera)
    joints = len(arm.joint_names)
    with tempfile.TemporaryDirectory() as folder, Frames(source, Path(folder)) as frames:
        for start in range(0, count, PART):
            frames.wait_for(start + PART)
            part = slice(start, start + PART)
            seen = np.array(frames.proprioception[part])
            yield LabelledFrames(
                np.array(frames.images[part]),
                np.array(frames.positions[part]),
                seen[:, :joints],
                seen[:, -6:],  # tool position and direction come last
            )


def encoded(
    encode: Encode,
    frames: LabelledFrames,
    rng: np.random.Generator,
    alter: Alteration = lambda image, rng: image,
) -> Encoded:
    """Run the encoder on (altered) images."""
    outputs = [encode({"image": np.ascontiguousarray(alter(image, rng))[None]}) for image in frames.images]
    features, pose, covariance, embedding = (np.concatenate(output) for output in zip(*outputs, strict=True))
    errors = pose[:, :3] - frames.positions
    return Encoded(features, pose, covariance, embedding, frames.joint_positions, frames.tool, errors)


def joined(parts: list[Encoded]) -> Encoded:
    """Join several sets of images."""
    return Encoded(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Encoded)))


@dataclass(frozen=True)
class GoldenTrust:
    """What `trust.onnx` gave in training's environment."""

    tensors: dict[str, np.ndarray]  # golden inputs and output of the network alone
    scores: np.ndarray  # [T], of the golden frames


def golden_trust(file: bytes, arm: Arm, frames: Sequence[PlayedFrame]) -> GoldenTrust:
    """Score the golden frames with `trust.onnx`, on what policies observe instead of through deployment's own code."""
    score = in_onnx_runtime(file, (TRUST_OUTPUT,))
    observer = Observer(arm, ObservationContract(("joint_positions", "tool_position", "tool_direction")))
    count = len(arm.joint_names)
    given, scores = [], []
    for frame in frames:
        observed = observer.proprioception(frame.joint_state)[None]
        values = (*frame.encoded, observed[:, :count], observed[:, count:])
        given.append(dict(zip(TRUST_INPUTS, values, strict=True)))
        scores.append(score(given[-1])[0])
    tensors = given[-1] | {TRUST_OUTPUT: scores[-1]}
    return GoldenTrust({f"trust/{name}": value for name, value in tensors.items()}, np.ravel(scores))
