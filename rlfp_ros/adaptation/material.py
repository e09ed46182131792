"""What an adaptation learns from: recorded images with labels of the arm, and rendered images of training."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlfp_ros.adaptation.arm_points import ArmLabels, arm_indices, arm_points, fit_camera, inside, project
from rlfp_ros.adaptation.encoder import DeployedEncoder
from rlfp_ros.contract import Bundle, CameraContract, Contract
from rlfp_ros.control.arm import Arm
from rlfp_ros.data.dataset import Dataset, EpisodeArrays
from rlfp_ros.learning.cell import Cell
from rlfp_ros.learning.recipes.frames import Frames, FrameSource
from rlfp_ros.perception.extrinsics import load_extrinsics
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import ADAPTATION
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

FEWEST_IMAGES = 100
STILL_RAD = 0.1  # range of the joint that moves most, below which the arm did not move
DARK = 8.0  # of 255: median of the brightest colour, below which nothing can be seen
HELD_OUT_EVERY = 4  # one episode of so many is only for measurements
HELD_OUT_SHARE = 4  # with fewer episodes, the last one of so many parts of each


@dataclass(frozen=True)
class RecordedImages:
    """N recorded images and where the arm's points are in them."""

    images: np.ndarray  # uint8 [N, h, w, 3]
    labels: ArmLabels


@dataclass(frozen=True)
class RenderedImages:
    """N images of training, with the places of the task's keypoints."""

    images: np.ndarray  # uint8 [N, h, w, 3]
    keypoints: np.ndarray  # float32 [N, P, 2] on the plane z = 1
    positions: np.ndarray  # float32 [N, 3] m, the object in the optical frame

    def part(self, which: slice) -> RenderedImages:
        """Return some of the images."""
        return RenderedImages(self.images[which], self.keypoints[which], self.positions[which])


@dataclass(frozen=True)
class AdaptationMaterial:
    """Everything that a method may use. Held-out images are for the acceptance test alone.

    Attributes
    ----------
    camera
        The camera of all images.
    file
        Contents of the bundle's `encoder.onnx`.
    recorded, held_out
        Recorded images.
    rendered, rendered_held_out
        Images of training.
    """

    camera: CameraContract
    file: bytes
    recorded: RecordedImages
    held_out: RecordedImages
    rendered: RenderedImages
    rendered_held_out: RenderedImages


def check_recording(dataset: Dataset, bundle: Bundle) -> None:
    """Check that a dataset belongs to a bundle.

    Raises
    ------
    ConfigurationError
        If it was recorded with another arm, another camera or another encoder.
    """
    document, contract = dataset.document, bundle.contract
    if document.joint_names != contract.arm.joint_names:
        raise ConfigurationError(
            f"{dataset.directory}: was recorded with arm {document.arm}, but bundle {contract.name} is for arm "
            f"{contract.arm.name}; give data of this arm"
        )
    if document.task != contract.task or document.encoder_sha256 != contract.files["encoder.onnx"]:
        raise ConfigurationError(
            f"{dataset.directory}: was recorded with another bundle ({document.bundle}, task {document.task}) than "
            f"{bundle.directory}; adapt that bundle, or record with this one"
        )
    images = (document.camera.width, document.camera.height, document.camera.intrinsics)
    if images != (contract.camera.width, contract.camera.height, contract.camera.intrinsics):
        raise ConfigurationError(
            f"{dataset.directory}: its images are those of another camera than the bundle's; make the dataset again "
            "with this bundle"
        )


def check_images(dataset: Dataset, episodes: list[EpisodeArrays]) -> None:
    """Check that something can be learned from recorded images.

    Raises
    ------
    ConfigurationError
        If there are too few, if they are dark, or if the arm stood still.
    """
    count = sum(len(episode.images) for episode in episodes)
    if count < FEWEST_IMAGES:
        raise ConfigurationError(
            f"{dataset.directory}: holds {count} images, expected at least {FEWEST_IMAGES}; record for longer"
        )
    brightness = np.concatenate([episode.images[::10].max(axis=-1).mean(axis=(1, 2)) for episode in episodes])
    if float(np.median(brightness)) < DARK:
        raise ConfigurationError(
            f"{dataset.directory}: the images are dark (median brightness {float(np.median(brightness)):.1f} of 255, "
            f"expected at least {DARK:g}); switch the light on, or raise the camera's exposure"
        )
    positions = np.concatenate([episode.positions for episode in episodes])
    span = float(np.ptp(positions, axis=0).max())
    if span < STILL_RAD:
        raise ConfigurationError(
            f"{dataset.directory}: the arm stood still (no joint moved by more than {span:.3f} rad, expected "
            f"{STILL_RAD:g}); record it while it moves through its workspace"
        )


def recorded_images(
    dataset: Dataset, bundle: Bundle, arm: Arm, extrinsics: str = ""
) -> tuple[RecordedImages, RecordedImages]:
    """Read a dataset's images with labels of the arm: those to learn from, and those that are held out.

    Parameters
    ----------
    dataset, bundle
        The dataset, and the bundle that ran when it was recorded.
    arm
        The arm in the images.
    extrinsics
        File with the calibrated camera's pose; empty to fit one pose per episode.

    Raises
    ------
    ConfigurationError
        If the dataset is of another bundle, or if nothing can be learned from its images.
    """
    check_recording(dataset, bundle)
    camera, encoder = bundle.contract.camera, DeployedEncoder(bundle.file("encoder.onnx").read_bytes())
    episodes = list(dataset.episodes())
    check_images(dataset, episodes)
    names, indices = arm_indices(load_task(bundle.contract.task))
    calibrated = load_extrinsics(extrinsics, camera) if extrinsics else None
    learned: list[tuple[np.ndarray, np.ndarray]] = []
    held_out: list[tuple[np.ndarray, np.ndarray]] = []
    for number, episode in enumerate(episodes):
        points = arm_points(arm, names, episode.positions)
        T = calibrated
        if T is None:
            T = fit_camera(points, encoder.features(episode.images)[0][:, indices, :2], camera)
        labels = project(points, T)
        if len(episodes) >= HELD_OUT_EVERY:
            (held_out if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else learned).append((episode.images, labels))
        else:
            cut = len(labels) - len(labels) // HELD_OUT_SHARE
            learned.append((episode.images[:cut], labels[:cut]))
            held_out.append((episode.images[cut:], labels[cut:]))
    return _joined(learned, indices, camera), _joined(held_out, indices, camera)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]], indices: np.ndarray, camera: CameraContract) -> RecordedImages:
    images, points = (np.concatenate(part) for part in zip(*parts, strict=True))
    return RecordedImages(images, ArmLabels(indices, points.astype(np.float32), inside(points, camera)))


def rendered_images(contract: Contract, arm: Arm, count: int) -> RenderedImages:
    """Render `count` images as training renders them, with seeds that no training uses."""
    cell = Cell(contract.task, arm, load_profile("train"), load_scene(image_size=contract.camera.height, arm=arm))
    source = FrameSource(cell, ADAPTATION.first, count, other_camera=contract.camera)
    with tempfile.TemporaryDirectory() as folder, Frames(source, Path(folder)) as frames:
        frames.wait_for(count)
        return RenderedImages(np.array(frames.images), np.array(frames.keypoints), np.array(frames.positions))
