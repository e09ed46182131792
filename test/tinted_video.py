"""A video of a moving arm in the tinted room, and datasets of it, for tests of adaptation."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from rlfp_ros.contract import Bundle, load_bundle, onnx_session
from rlfp_ros.control.arm import load_arm
from rlfp_ros.data.dataset import Dataset, DatasetDocument, EpisodeArrays, EpisodeEntry, write_dataset, write_episode
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

ARM = load_arm("panda")
BUNDLE = load_bundle("reach_panda")
FILE = BUNDLE.file("encoder.onnx").read_bytes()
CAMERA = BUNDLE.contract.camera
PARITY = 1e-5
RECORDED = 120  # images of the moving arm


@cache
def tinted_video() -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 84, 84, 3] of a moving arm in the tinted room, as the policy sees them, and its joints [N, 7]."""
    world = MujocoWorld(ARM, load_task("reach"), load_room("adapt_tint"), load_scene(), CAMERA)
    world.reset(5003)
    perception = Perception(BUNDLE)
    images, joints = [], []
    for frame in range(RECORDED):
        phase = np.array([0.11, 0.07, 0.13, 0.09, 0.05, 0.12, 0.08]) * frame
        positions = np.array(ARM.home) + 0.3 * np.sin(phase) * np.array([1, -0.5, 0.6, 0.8, 0.3, 0.5, -1.0])
        world.move_arm(positions, 0.04)
        images.append(perception(world.render(), world.calibration).image.copy())
        joints.append(positions)
    world.close()
    return np.stack(images), np.stack(joints)


def written(
    folder: Path, images: np.ndarray, joints: np.ndarray, bundle: Bundle = BUNDLE, **changes: object
) -> Dataset:
    """Write a dataset of one episode."""
    count, actions = len(images), len(bundle.contract.action.components)
    arrays = EpisodeArrays(
        stamps_ns=np.arange(count) * 33_333_333,
        images=images,
        positions=joints,
        velocities=np.zeros_like(joints),
        gripper_widths=np.full(count, 0.04),
        proprioception=np.zeros((count, 1), np.float32),
        asked=np.zeros((count, actions), np.float32),
        applied=np.zeros((count, actions), np.float32),
        commands=joints,
    )

    def fill(scratch: Path) -> DatasetDocument:
        digest = write_episode(scratch / "episode_0000.npz", arrays)
        entry = EpisodeEntry(
            file="episode_0000.npz",
            sha256=digest,
            bag="bag",
            frames=count,
            duration_s=count / 30,
            rate_hz=30.0,
            longest_gap_s=0.034,
            answered=count,
            admitted=count,
            outcome="unknown",
        )
        contract = bundle.contract
        document = DatasetDocument(
            bundle=contract.name,
            encoder_sha256=contract.files["encoder.onnx"],
            task=contract.task,
            arm=contract.arm.name,
            joint_names=contract.arm.joint_names,
            camera=contract.camera,
            action_components=contract.action.components,
            episodes=(entry,),
        )
        return document.model_copy(update=changes)

    return write_dataset(folder, fill)


def golden_images(name: str) -> tuple[Bundle, torch.Tensor]:
    bundle = load_bundle(name)
    return bundle, torch.from_numpy(bundle.golden_frames().images)


def outputs_in_onnx_runtime(file: bytes, images: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnx_session(file)
    names = [value.name for value in session.get_outputs()]
    rows = [session.run(names, {"image": image[None].numpy()}) for image in images]
    return dict(zip(names, (np.concatenate(part) for part in zip(*rows, strict=True)), strict=True))
