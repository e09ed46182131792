"""Stage one: the encoder learns where things are, from randomised pictures and the simulator's knowledge."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlfp_ros.learning.encoders.spatial import INSIDE_90, Encoder
from rlfp_ros.learning.objectives.objective import AnyEncoder
from rlfp_ros.learning.objectives.representation import (
    SUPERVISED,
    AnyEncoderSettings,
    Representation,
    make_encoder,
    objectives_of,
)
from rlfp_ros.learning.recipes.appearance import Appearance
from rlfp_ros.learning.recipes.frames import Frames, FrameSource, held_out_count
from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import Show


@dataclass(frozen=True)
class EncoderTraining:
    """How long and how the encoder learns."""

    frames: int = 96_000  # pictures rendered
    updates: int = 2_250  # gradient steps
    batch: int = 128  # pictures in a step
    learning_rate: float = 3e-3  # highest, after a short warm-up; falls to zero along a cosine
    first_frames: int = 3_000  # rendered before the first step
    frames_per_update: int = 90  # how fast the pool grows: about as a core renders, so that no update waits long
    other_appearances: bool = True  # pictures look different in every use (`learning/recipes/appearance.py`)
    keypoint_scale: float = 0.02  # on the plane z = 1 (about 2 cm at 1 m): where the keypoint loss turns linear
    keypoint_weight: float = 1.0
    heat_weight: float = 1.0
    position_scale: float = 0.02  # m, where the position loss turns linear
    position_weight: float = 1.0
    covariance_weight: float = 0.05

    @property
    def last_growth(self) -> int:
        """The update from which on the pool is whole."""
        return math.ceil((self.frames - self.first_frames) / self.frames_per_update)


@dataclass(frozen=True)
class EncoderReport:
    """What the encoder measures on frames it never saw."""

    position_error_mm: float  # median
    keypoint_error_px: list[float]  # median, each keypoint; empty where the features are no points
    inside_90: float  # share of true positions inside the nominal 90 % region


def train_encoder(
    source: FrameSource,
    directory: Path,
    training: EncoderTraining,
    settings: AnyEncoderSettings,
    show: Show,
    representation_name: str = SUPERVISED,
    pictures: Path | None = None,
    threads: int = 1,
) -> tuple[AnyEncoder, EncoderReport]:
    """Train, or go on from `directory/encoder.pt`. `show(updates done, text)` is called now and then.

    The pictures are kept in `pictures`, or in `directory/frames`. While they are rendered this computes in one thread,
    and in `threads` from the step on that draws from all of them. Raises ConfigurationError where the representation is
    not known or does not go with the encoder.
    """
    if any(kind.sequences for kind in objectives_of(representation_name)[1]):
        source = replace(source, sequences=True)
    torch.set_num_threads(1)
    torch.manual_seed(source.seed)
    torch.set_flush_denormal(True)  # far from a point its heat map's gradients are, and arithmetic on these is slow
    encoder = make_encoder(source.camera, settings).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    representation = Representation(representation_name, encoder, source)
    parameters = [value for part in (encoder, representation) for value in part.parameters() if value.requires_grad]
    clipped = [parameters]
    if not representation.supervised:  # a shared norm would let the labels' loss scale the objectives' gradients
        probe = list(encoder.pose_head.parameters())
        clipped = [probe, [value for value in parameters if all(value is not other for other in probe)]]
    optimizer = torch.optim.AdamW(parameters, training.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.updates, pct_start=max(0.05, 2 / training.updates)
    )
    checkpoint = directory / "encoder.pt"
    key = {"stage": "encoder", "training": asdict(training), "settings": asdict(settings), "seed": source.seed}
    key["representation"] = representation_name
    state = load_checkpoint(checkpoint, key)
    update = 0
    appearance = None
    if training.other_appearances and representation.supervised:
        appearance = Appearance(source.camera.height, source.camera.width, source.seed)
    if state:
        encoder.load_state_dict(state["encoder"])
        representation.load_state_dict(state["representation"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        update = state["update"]
    with (
        Frames(source, pictures or directory / "frames") as frames,
        ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as ahead,
    ):
        pool = source.count - held_out_count(source.count)

        def prepared(update: int) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
            """An update's picks, images, keypoints and positions: made while the one before is learnt from."""
            count = min(pool, training.first_frames + update * training.frames_per_update)
            frames.wait_for(count)
            picks = representation.pick(np.random.default_rng([source.seed, update]), count, training.batch)
            images, keypoints, positions = _batch(frames, picks)
            if appearance is not None:
                intrinsics = source.camera.intrinsics
                centre = keypoints[:, 0] * intrinsics.fx + torch.tensor([intrinsics.cx, intrinsics.cy])
                appearance.seed(source.seed + update)  # of this update alone: a resumed training goes on the same
                images = appearance(images, centre)
            return picks, images, keypoints, positions

        if not state:
            first = min(pool, training.first_frames)
            frames.wait_for(first)
            representation.fit(frames, first)
        coming = ahead.submit(prepared, update)
        while update < training.updates:
            picks, images, keypoints, positions = coming.result()
            if update + 1 < training.updates:
                coming = ahead.submit(prepared, update + 1)
            if update >= training.last_growth and torch.get_num_threads() != threads:
                frames.wait_for(source.count)  # no sooner, however fast it renders: threads decide how sums are rounded
                torch.set_num_threads(threads)
            seen = encoder.see(images)
            features, position, factor, _ = encoder.describe(*seen)
            loss = representation.loss(encoder, frames, picks, images, seen[0], features)
            if not representation.supervised:
                position, factor = encoder.pose(features.detach())
            elif isinstance(encoder, Encoder):
                loss = loss + _keypoint_loss(encoder, training, seen[1], features, keypoints)
            loss = loss + _pose_loss(training, position, factor, positions)
            optimizer.zero_grad()
            loss.backward()
            for group in clipped:
                torch.nn.utils.clip_grad_norm_(group, 5.0)
            optimizer.step()
            schedule.step()
            representation.follow(encoder)
            update += 1
            if update % 20 == 0:
                show(update, f"loss {loss.item():.3f}, {frames.available} frames", loss=loss.item())
            if update % 500 == 0 or update == training.updates:
                save_checkpoint(
                    checkpoint, key, encoder=encoder.state_dict(), representation=representation.state_dict(),
                    optimizer=optimizer.state_dict(), schedule=schedule.state_dict(), update=update,
                )  # fmt: skip
        frames.wait_for(source.count)
        torch.set_num_threads(threads)
        report = _evaluate(encoder, frames, range(pool, source.count))
    return encoder, report


def _batch(frames: Frames, picks: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    images, keypoints, positions = frames.images[picks], frames.keypoints[picks], frames.positions[picks]
    return torch.from_numpy(images), torch.from_numpy(keypoints), torch.from_numpy(positions)


def _keypoint_loss(
    encoder: Encoder, training: EncoderTraining, log_weights: Tensor, features: Tensor, keypoints: Tensor
) -> Tensor:
    count = keypoints.shape[1]
    scale = training.keypoint_scale
    keypoint_loss = functional.smooth_l1_loss(features[:, :count, :2] / scale, keypoints / scale)
    # Cross-entropy on the heat maps themselves: gradients everywhere, where the point's own vanish at a distance.
    heat_loss = -(encoder.cell_weights(keypoints) * log_weights[:, :count]).sum(dim=-1).mean()
    return training.heat_weight * heat_loss + training.keypoint_weight * keypoint_loss


def _pose_loss(training: EncoderTraining, position: Tensor, factor: Tensor, positions: Tensor) -> Tensor:
    position_loss = functional.smooth_l1_loss(position / training.position_scale, positions / training.position_scale)
    # The covariance learns from the errors without pulling at them: the likelihood's pull weakens where it is unsure.
    error = (positions - position).detach()[..., None]
    standardised = torch.linalg.solve_triangular(factor, error, upper=False)
    log_volume = torch.log(torch.diagonal(factor, dim1=1, dim2=2)).sum(-1)
    likelihood = (0.5 * standardised.square().sum(dim=(1, 2)) + log_volume).mean()
    return training.position_weight * position_loss + training.covariance_weight * likelihood


@torch.no_grad()
def _evaluate(encoder: AnyEncoder, frames: Frames, held_out: range) -> EncoderReport:
    encoder.eval()
    errors, pixels, inside = [], [], []
    focal = frames.source.camera.intrinsics.fx
    for start in range(held_out.start, held_out.stop, 256):
        picks = np.arange(start, min(start + 256, held_out.stop))
        images, keypoints, positions = _batch(frames, picks)
        features, position, factor, _ = encoder(images)
        errors.append((position - positions).norm(dim=-1))
        if isinstance(encoder, Encoder):
            pixels.append((features[:, : keypoints.shape[1], :2] - keypoints).norm(dim=-1) * focal)
        residual = torch.linalg.solve_triangular(factor, (positions - position)[..., None], upper=False)
        inside.append(residual.square().sum(dim=(1, 2)) < INSIDE_90)
    return EncoderReport(
        position_error_mm=1e3 * torch.cat(errors).median().item(),
        keypoint_error_px=torch.cat(pixels).median(dim=0).values.tolist() if pixels else [],
        inside_90=torch.cat(inside).float().mean().item(),
    )
