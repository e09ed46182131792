"""Trains an encoder with randomised images and the simulator's labels."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder, EncoderChoice, PointEncoder
from rlfp_ros.learning.encoders.pose_head import INSIDE_90
from rlfp_ros.learning.recipes.appearance import Appearance
from rlfp_ros.learning.recipes.frames import Frames, FrameSource, held_out_count
from rlfp_ros.learning.recipes.representation import SUPERVISED, Representation, objectives_of
from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import Show
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import FRAMES

CHECKPOINT_UPDATES = 500
SMALLEST_WORK = 0.003  # smallest share of the full training


class EncoderTraining(TrainingSettings):
    """Length and hyperparameters of the training."""

    frames: int = Field(96_000, ge=2, le=FRAMES.block)  # images rendered
    updates: int = Field(2_250, ge=1)  # gradient steps
    batch: int = Field(128, ge=1)  # images per gradient step
    learning_rate: float = Field(3e-3, gt=0, le=1)  # highest, after a short warm-up; falls to zero along a cosine
    first_frames: int = Field(3_000, ge=1)  # images rendered before the first gradient step
    # Growth of the pool of images, about the speed at which a core renders, so that no update waits long.
    frames_per_update: int = Field(90, ge=1)
    other_appearances: bool = (
        True  # whether an image is changed each time it is used (`learning/recipes/appearance.py`)
    )
    keypoint_scale: float = Field(0.02, gt=0)  # on the plane z = 1 (2 cm at 1 m): error at which the loss turns linear
    keypoint_weight: float = Field(1.0, ge=0)
    heat_weight: float = Field(1.0, ge=0)
    position_scale: float = Field(0.02, gt=0)  # m, error at which the position loss turns linear
    position_weight: float = Field(1.0, ge=0)
    covariance_weight: float = Field(0.05, ge=0)

    def shortened(self, factor: float) -> EncoderTraining:
        """Return the same settings with `factor` of the work.

        Raises
        ------
        ConfigurationError
            If that is too little to train anything.
        """
        if factor < SMALLEST_WORK:
            raise ConfigurationError(
                f"--work is {factor:g}, expected at least {SMALLEST_WORK:g}; less leaves the encoder fewer than ten "
                "gradient steps, which train nothing"
            )
        return self.changed(
            frames=max(256, int(self.frames * factor)),
            updates=max(10, int(self.updates * factor)),
            first_frames=max(64, int(self.first_frames * factor)),
        )

    @property
    def last_growth(self) -> int:
        """The first update that draws from all images."""
        return math.ceil((self.frames - self.first_frames) / self.frames_per_update)


@dataclass(frozen=True)
class EncoderReport:
    """Errors of the encoder on images that it was not trained on."""

    position_error_mm: float  # median
    keypoint_error_px: list[float]  # median of each keypoint; empty if the features are not points
    inside_90: float  # share of true positions inside the nominal 90 % region


def train_encoder(
    source: FrameSource,
    directory: Path,
    training: EncoderTraining,
    choice: EncoderChoice,
    show: Show,
    representation_name: str = SUPERVISED,
    images: Path | None = None,
    threads: int = 1,
) -> tuple[Encoder, EncoderReport]:
    """Train an encoder, or continue from `directory/encoder.pt`.

    Parameters
    ----------
    source
        The images to learn from.
    directory
        Folder of the checkpoint, and of the images in its subfolder `frames`.
    training, choice, representation_name
        The settings, the encoder, and the names of its objectives.
    show
        Called regularly with the number of finished updates and a text.
    images
        Another folder for the images.
    threads
        Threads that compute after all images are rendered. Before, only one computes, because the renderer needs the
        other core.

    Returns
    -------
    encoder
        The trained encoder.
    report
        Its errors on images that it was not trained on.

    Raises
    ------
    ConfigurationError
        If the representation is not known or does not work with the encoder.
    """
    if any(kind.sequences for kind in objectives_of(representation_name)[1]):
        source = replace(source, sequences=True)
    torch.set_num_threads(1)
    torch.manual_seed(source.seed)
    torch.set_flush_denormal(True)  # gradients far from a point are denormal, and arithmetic on these is slow
    encoder = choice.build(source.camera).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = _Learner(encoder, Representation(representation_name, encoder, source), training)
    checkpoint = directory / "encoder.pt"
    key = {
        "stage": "encoder",
        "training": training.model_dump(),
        "encoder": choice.name,
        "settings": asdict(encoder.settings),
        "seed": source.seed,
        "representation": representation_name,
    }
    state = load_checkpoint(checkpoint, key)
    if state:
        learner.load_state_dict(state)
    with (
        Frames(source, images or directory / "frames") as frames,
        ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as ahead,
    ):
        batches = _Batches(frames, learner.representation, training)
        if not state:
            learner.representation.fit(frames, batches.wait_for(0))
        coming = ahead.submit(batches.make, learner.update)
        while learner.update < training.updates:
            batch = coming.result()
            if learner.update + 1 < training.updates:
                coming = ahead.submit(batches.make, learner.update + 1)
            if learner.update >= training.last_growth and torch.get_num_threads() != threads:
                # Always at this update, however fast images are rendered, because the number of threads changes
                # rounding.
                frames.wait_for(source.count)
                torch.set_num_threads(threads)
            loss = learner.learn(batch, frames)
            update = learner.update
            if update % 20 == 0:
                show(update, f"loss {loss:.3f}, {frames.available} frames", loss=loss)
            if update % CHECKPOINT_UPDATES == 0 or update == training.updates:
                save_checkpoint(checkpoint, key, **learner.state_dict())
        frames.wait_for(source.count)
        torch.set_num_threads(threads)
        report = _evaluate(encoder, frames, range(batches.pool, source.count))
    return encoder, report


@dataclass(frozen=True)
class _Batch:
    """One gradient step's data."""

    picks: np.ndarray  # indices of the images
    images: Tensor  # [B, H, W, 3], 0 to 255
    keypoints: Tensor  # [B, P, 2] on the plane z = 1
    positions: Tensor  # [B, 3] m in the optical frame


class _Batches:
    """Makes batches that depend only on the number of the update, so that a resumed training is the same."""

    def __init__(self, frames: Frames, representation: Representation, training: EncoderTraining) -> None:
        self._frames, self._representation, self._training = frames, representation, training
        source = frames.source
        self._seed, self._intrinsics = source.seed, source.camera.intrinsics
        self.pool = source.count - held_out_count(source.count)  # images that the encoder learns from
        task = source.cell.make_task()
        self._objects = [task.keypoints.index(name) for name in task.objects]
        self._appearance: Appearance | None = None
        if training.other_appearances and representation.supervised:
            self._appearance = Appearance(source.camera.height, source.camera.width, source.seed)

    def wait_for(self, update: int) -> int:
        """Wait for the images that an update draws from; return their number."""
        count = min(self.pool, self._training.first_frames + update * self._training.frames_per_update)
        self._frames.wait_for(count)
        return count

    def make(self, update: int) -> _Batch:
        """Make the batch of an update."""
        count = self.wait_for(update)
        picks = self._representation.pick(np.random.default_rng([self._seed, update]), count, self._training.batch)
        images, keypoints, positions = _batch(self._frames, picks)
        if self._appearance is not None:
            lens = self._intrinsics
            on_objects = keypoints[:, self._objects] * lens.fx + torch.tensor([lens.cx, lens.cy])
            self._appearance.seed(self._seed + update)
            images = self._appearance(images, on_objects)
        return _Batch(picks, images, keypoints, positions)


class _Learner:
    """Encoder, objectives and optimiser: the content of a checkpoint."""

    def __init__(self, encoder: Encoder, representation: Representation, training: EncoderTraining) -> None:
        self.encoder, self.representation, self._training = encoder, representation, training
        self.update = 0  # number of gradient steps taken
        parameters = [value for part in (encoder, representation) for value in part.parameters() if value.requires_grad]
        self._clipped = [parameters]
        if not representation.supervised:
            # With a common norm, the loss of the labels would scale the gradients of the objectives.
            probe = list(encoder.pose_head.parameters())
            self._clipped = [probe, [value for value in parameters if all(value is not other for other in probe)]]
        self._optimizer = torch.optim.AdamW(parameters, training.learning_rate, weight_decay=1e-4)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            training.learning_rate,
            total_steps=training.updates,
            pct_start=max(0.05, 2 / training.updates),
        )

    def learn(self, batch: _Batch, frames: Frames) -> float:
        """Take one gradient step; return the loss."""
        loss = self._loss(batch, frames)
        self._optimizer.zero_grad()
        loss.backward()
        for group in self._clipped:
            torch.nn.utils.clip_grad_norm_(group, 5.0)
        self._optimizer.step()
        self._schedule.step()
        self.representation.follow(self.encoder)
        self.update += 1
        return loss.item()

    def _loss(self, batch: _Batch, frames: Frames) -> Tensor:
        encoder, representation, training = self.encoder, self.representation, self._training
        seen = encoder.see(batch.images)
        features, position, factor, _ = encoder.describe(*seen)
        loss = representation.loss(encoder, frames, batch.picks, batch.images, seen[0], features)
        if not representation.supervised:
            position, factor = encoder.pose(features.detach())
        elif isinstance(encoder, PointEncoder):
            loss = loss + keypoint_loss(encoder, training, seen[1], features, batch.keypoints)
        return loss + pose_loss(training, position, factor, batch.positions)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "encoder": self.encoder.state_dict(),
            "representation": self.representation.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "update": self.update,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        self.encoder.load_state_dict(state["encoder"])
        self.representation.load_state_dict(state["representation"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.update = state["update"]


def _batch(frames: Frames, picks: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    images, keypoints, positions = frames.images[picks], frames.keypoints[picks], frames.positions[picks]
    return torch.from_numpy(images), torch.from_numpy(keypoints), torch.from_numpy(positions)


def keypoint_loss(
    encoder: PointEncoder, training: EncoderTraining, log_weights: Tensor, features: Tensor, keypoints: Tensor
) -> Tensor:
    count = keypoints.shape[1]
    scale = training.keypoint_scale
    point_loss = functional.smooth_l1_loss(features[:, :count, :2] / scale, keypoints / scale)
    # Cross-entropy on the heat maps has gradients everywhere; those of the point vanish at a distance.
    heat_loss = -(encoder.cell_weights(keypoints) * log_weights[:, :count]).sum(dim=-1).mean()
    return training.heat_weight * heat_loss + training.keypoint_weight * point_loss


def pose_loss(training: EncoderTraining, position: Tensor, factor: Tensor, positions: Tensor) -> Tensor:
    position_loss = functional.smooth_l1_loss(position / training.position_scale, positions / training.position_scale)
    # The covariance learns from the errors without changing them: the likelihood's gradient on the position is weak
    # for uncertain images.
    error = (positions - position).detach()[..., None]
    standardised = torch.linalg.solve_triangular(factor, error, upper=False)
    log_volume = torch.log(torch.diagonal(factor, dim1=1, dim2=2)).sum(-1)
    likelihood = (0.5 * standardised.square().sum(dim=(1, 2)) + log_volume).mean()
    return training.position_weight * position_loss + training.covariance_weight * likelihood


@torch.no_grad()
def _evaluate(encoder: Encoder, frames: Frames, held_out: range) -> EncoderReport:
    encoder.eval()
    errors, pixels, inside = [], [], []
    focal = frames.source.camera.intrinsics.fx
    for start in range(held_out.start, held_out.stop, 256):
        picks = np.arange(start, min(start + 256, held_out.stop))
        images, keypoints, positions = _batch(frames, picks)
        features, position, factor, _ = encoder(images)
        errors.append((position - positions).norm(dim=-1))
        if isinstance(encoder, PointEncoder):
            pixels.append((features[:, : keypoints.shape[1], :2] - keypoints).norm(dim=-1) * focal)
        residual = torch.linalg.solve_triangular(factor, (positions - position)[..., None], upper=False)
        inside.append(residual.square().sum(dim=(1, 2)) < INSIDE_90)
    return EncoderReport(
        position_error_mm=1e3 * torch.cat(errors).median().item(),
        keypoint_error_px=torch.cat(pixels).median(dim=0).values.tolist() if pixels else [],
        inside_90=torch.cat(inside).float().mean().item(),
    )
