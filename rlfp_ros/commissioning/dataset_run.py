"""Reads a run from a dataset, for the comparison with training: images and joints, without the graph's results."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlfp_ros.commissioning.recorded_run import FEWEST_IMAGES, MAX_IMAGES, RecordedJoints, RecordedRun
from rlfp_ros.contract import Bundle
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.data.dataset import load_dataset
from rlfp_ros.recording.bag_topics import CameraTopics, RobotTopics
from rlfp_ros.schema import ConfigurationError


def dataset_run(directory: Path, bundle: Bundle, arm: Arm) -> RecordedRun:
    """Read the first `MAX_IMAGES` images of a dataset's longest episode, and its joints.

    Parameters
    ----------
    directory
        The dataset, from `rlfp dataset`.
    bundle
        The bundle to compare with.
    arm
        The arm in the dataset.

    Raises
    ------
    ConfigurationError
        If the folder is not a dataset, or it was made for another bundle or with another arm.
    """
    dataset = load_dataset(directory)
    document, contract = dataset.document, bundle.contract
    if document.encoder_sha256 != contract.files["encoder.onnx"]:
        raise ConfigurationError(
            f"{directory}: was made with bundle {document.bundle}, expected {contract.name}; give that bundle with "
            "--bundle, or make the dataset again"
        )
    if document.joint_names != arm.joint_names:
        raise ConfigurationError(
            f"{directory}: holds the joints of arm {document.arm}, expected {arm.name}; choose the arm with --arm"
        )
    longest = max(document.episodes, key=lambda entry: entry.frames)
    if longest.frames < FEWEST_IMAGES:
        raise ConfigurationError(
            f"{directory}: its longest episode has {longest.frames} images, expected at least {FEWEST_IMAGES}"
        )
    arrays = dataset.episode(longest)
    run = RecordedRun(RobotTopics(CameraTopics(longest.file, "", False), (longest.file,)), arm.joint_names)
    for number, stamp in enumerate(arrays.stamps_ns[:MAX_IMAGES].tolist()):
        if number in longest.repeated:
            continue
        positions = arrays.positions[number]
        run.images[stamp] = arrays.images[number]
        state = JointState(stamp, positions, arrays.velocities[number], np.zeros_like(positions))
        run.joints.append(RecordedJoints(state, positions))
    return run
