"""Tests of representations that are trained on rendered images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from rlfp_ros.learning.cell import load_cell
from rlfp_ros.learning.encoders.encoder import EncoderChoice
from rlfp_ros.learning.objectives.objective import OBJECTIVES
from rlfp_ros.learning.recipes.frames import MOVE_S, Frames, FrameSource, discrete_actions
from rlfp_ros.learning.recipes.train_encoder import EncoderTraining, train_encoder
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.tasks.task import TOOL_ACTION

pytestmark = pytest.mark.usefixtures("seeded_torch")


@pytest.fixture(scope="module")
def source() -> FrameSource:
    return FrameSource(load_cell("reach", "panda", "none", 24), 77, 90, sequences=True)


@pytest.fixture(scope="module")
def images(source: FrameSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("images")
    with Frames(source, directory) as frames:
        frames.wait_for(source.count)
    return directory


def test_images_of_a_sequence_follow_from_their_actions(source: FrameSource, images: Path) -> None:
    frames = Frames(source, images)
    choices = discrete_actions(TOOL_ACTION)
    tool = frames.proprioception[:, 15:18].reshape(30, 3, 3)
    for place in (1, 2):
        actions = frames.actions.reshape(30, 3)[:, place]
        expected = MOVE_S * choices[actions] * np.array(TOOL_ACTION.scale)
        moved = tool[:, place] - tool[:, place - 1]
        near = np.abs(moved - expected).max(axis=1) < 0.004  # some stop at the edge of the workspace
        assert near.mean() > 0.8
    assert (frames.actions.reshape(30, 3)[:, 0] == 0).all()
    assert frames.rewards.max() < 0  # reach: minus the distance
    # The table's middle as the camera sees it: a metre or so, and nearer where the arm is.
    assert 0.3 < frames.depths.min() < frames.depths.max() < 4.001


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_representation_trains_resumes_and_leaves_the_pose_head_a_probe(
    name: str, source: FrameSource, images: Path, tmp_path: Path
) -> None:
    kind = "spatial" if name == "dsae" else "cnn"
    training = EncoderTraining(frames=90, updates=4, batch=9, first_frames=60, frames_per_update=5)
    said: list[str] = []

    def show(done: int, text: str, **figures: float) -> None:
        said.append(text)

    encoder, report = train_encoder(source, tmp_path, training, EncoderChoice(kind), show, name, images)
    assert np.isfinite(report.position_error_mm)
    assert (len(report.keypoint_error_px) > 0) == (kind == "spatial")
    again, _ = train_encoder(source, tmp_path, training, EncoderChoice(kind), lambda *_, **__: None, name, images)
    for one, other in zip(encoder.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ConfigurationError, match="was made with representation"):
        train_encoder(
            source, tmp_path, training, EncoderChoice(kind), lambda *_, **__: None, f"supervised+{name}", images
        )


def test_how_fast_images_are_rendered_changes_no_bit(source: FrameSource, images: Path, tmp_path: Path) -> None:
    """Threads round sums otherwise, so the step that takes to more of them is the recipe's, not the renderer's."""
    training = EncoderTraining(frames=90, updates=8, batch=48, first_frames=60, frames_per_update=10)
    assert training.last_growth == 3
    settings = EncoderChoice("spatial")

    def weights(name: str, there: Path | None, threads: int) -> list[Tensor]:
        encoder, _ = train_encoder(
            source, tmp_path / name, training, settings, lambda *_, **__: None, images=there, threads=threads
        )
        assert torch.get_num_threads() == threads
        return list(encoder.state_dict().values())

    def equal(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(map(torch.equal, one, other))

    rendered_before = weights("rendered_before", images, 2)
    assert equal(rendered_before, weights("rendered_beside", None, 2))
    assert not equal(rendered_before, weights("one_thread", images, 1))  # so it would show


def test_without_supervision_labels_do_not_reach_the_features(
    source: FrameSource, images: Path, tmp_path: Path
) -> None:
    """Two trainings with different weights of the labels' loss: the same trunk, another pose head."""
    trunks, heads = [], []
    for weight in (1.0, 5.0):
        training = EncoderTraining(frames=90, updates=3, batch=8, first_frames=60, position_weight=weight)
        encoder, _ = train_encoder(
            source,
            tmp_path / str(weight),
            training,
            EncoderChoice("cnn"),
            lambda *_, **__: None,
            "autoencoder",
            images,
        )
        trunks.append(encoder.get_parameter("projection.weight"))
        heads.append(encoder.get_parameter("pose_head.0.weight"))
    assert (trunks[0] - trunks[1]).abs().max() < 1e-6
    assert (heads[0] - heads[1]).abs().max() > 1e-6
