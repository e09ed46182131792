"""The domain-shift score that foretells errors: is the object more than 30 mm from where the encoder sees it?

A small network reads what the encoder found in an image, and what is known physically: joints and camera give the
places at which tool, hand and base must appear. If the encoder sees them elsewhere, or if the object's point and the
pose head contradict each other, the object's position is not to be believed either. The network is learnt for a
finished encoder, from rendered images and altered copies of them (`alterations`), whose true positions are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.contract import CameraContract

ERROR_M = 0.03  # the error that the score foretells
HAND_M = 0.105  # from the tool point back along the tool's axis: about where a gripper's body appears
BASE = (0.0, 0.0, 0.1)  # m, a point of the arm that does not move, base frame
TABLE_M = 0.02  # height of an object's middle on the table
LARGEST = 5.0  # normalised inputs are clipped to this
# Scores at chosen quantiles of the log-odds of images in which the object is seen well: half of them score 0, the
# controller slows from 0.7 on and holds from 0.95 on.
USUAL, SLOW, HOLD = 0.0, 0.7, 0.95
SLOW_QUANTILE, HOLD_QUANTILE = 0.97, 0.985


@dataclass(frozen=True)
class Encoded:
    """What a trust network is given of N images, float32, and by how much the object was missed."""

    features: np.ndarray  # [N, K, 3] or [N, Z]
    object_pose: np.ndarray  # [N, 7]
    pose_cov: np.ndarray  # [N, 6, 6]
    embedding: np.ndarray  # [N, E]
    joint_positions: np.ndarray  # [N, J] rad
    tool: np.ndarray  # [N, 6]: position m and unit vector along the tool's axis, base frame
    errors: np.ndarray  # [N, 3] m

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The network's inputs, in order."""
        arrays = (
            self.features, self.object_pose, self.pose_cov, self.embedding, self.joint_positions, self.tool
        )  # fmt: skip
        return tuple(torch.from_numpy(np.asarray(array, np.float32)) for array in arrays)

    @property
    def is_wrong(self) -> np.ndarray:
        """Whether the object is missed by more than `ERROR_M`, [N]."""
        return np.asarray(np.linalg.norm(self.errors, axis=1) > ERROR_M)


@dataclass(frozen=True)
class TrustTraining:
    """Length and data of the training of the score."""

    images: int = 8_000
    altered: int = 3  # copies of each image
    held_out: int = 1_200  # images for the thresholds, from other seeds
    updates: int = 5_000
    batch: int = 256
    learning_rate: float = 2e-3
    hidden: int = 256

    def shortened(self, images: int) -> TrustTraining:
        """The same learning from another number of images; from fewer, with fewer updates."""
        share = min(1.0, images / self.images)
        return replace(
            self,
            images=images,
            held_out=max(30, int(self.held_out * share)),
            updates=max(50, int(self.updates * share)),
        )


class Trust(nn.Module):
    """The module that becomes `trust.onnx`."""

    mean: Tensor
    scale: Tensor
    knots: Tensor
    rotation: Tensor
    place: Tensor
    fixed: Tensor

    def __init__(self, camera: CameraContract, example: Encoded, hidden: int) -> None:
        super().__init__()
        T_base_camera = camera.T_base_camera.matrix()
        T_camera_base = np.linalg.inv(T_base_camera)
        self.register_buffer("rotation", torch.tensor(T_base_camera[:3, :3]).float())  # camera to base
        self.register_buffer("place", torch.tensor(T_base_camera[:3, 3]).float())
        self.register_buffer("fixed", torch.tensor(T_camera_base[:3, :3] @ BASE + T_camera_base[:3, 3]).float())
        self.register_buffer("knots", torch.tensor([0.0, 1.0, 2.0]))  # log-odds at USUAL, SLOW and HOLD
        with torch.no_grad():
            described = self.describe(*example.inputs)
        self.register_buffer("mean", described.mean(dim=0))
        deviation = described.std(dim=0)
        self.register_buffer("scale", deviation + 1e-3 * described.abs().mean(dim=0) + 1e-4)
        self.network = nn.Sequential(
            nn.Linear(described.shape[1], hidden), nn.ReLU(), nn.Dropout(0.15),
            nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Dropout(0.15),
            nn.Linear(hidden // 2, 5),
        )  # fmt: skip

    def forward(
        self,
        features: Tensor,
        object_pose: Tensor,
        pose_cov: Tensor,
        embedding: Tensor,
        joint_positions: Tensor,
        tool: Tensor,
    ) -> Tensor:
        """Compute the score [B, 1] in [0, 1]."""
        odds = self.judge(self.describe(features, object_pose, pose_cov, embedding, joint_positions, tool))[:, :1]
        usual, slow, hold = self.knots[0], self.knots[1], self.knots[2]
        below = SLOW * (odds - usual) / (slow - usual)
        above = SLOW + (HOLD - SLOW) * (odds - slow) / (hold - slow)
        return torch.minimum(torch.where(odds < slow, below, above).clamp(min=0.0), torch.ones_like(odds))

    def judge(self, described: Tensor) -> Tensor:
        """Compute log-odds of an error above ERROR_M, log of the error, and the error in units of ERROR_M, [B, 5]."""
        found: Tensor = self.network(((described - self.mean) / self.scale).clamp(-LARGEST, LARGEST))
        return found

    def describe(
        self,
        features: Tensor,
        object_pose: Tensor,
        pose_cov: Tensor,
        embedding: Tensor,
        joint_positions: Tensor,
        tool: Tensor,
    ) -> Tensor:
        """Compute what the network reads, [B, D]: the inputs, and how far they contradict each other."""
        position = object_pose[:, :3]
        block = pose_cov[:, :3, :3]
        spread = torch.diagonal(block, dim1=1, dim2=2).clamp(min=1e-9).log()
        in_base = position @ self.rotation.T + self.place
        at, along = tool[:, :3], tool[:, 3:]
        ray_of_pose = position[:, :2] / position[:, 2:].clamp(min=0.1)
        parts = [
            features.flatten(1), position, spread, block.flatten(1) * 1e3, embedding, torch.log1p(embedding.abs()),
            joint_positions, at, along, in_base, in_base - at, (in_base - at).norm(dim=1, keepdim=True),
        ]  # fmt: skip
        expected = torch.stack([self._seen(at), self._seen(at - HAND_M * along)], dim=1)
        foot = (self.fixed[:2] / self.fixed[2]).expand(len(at), 1, 2)
        expected = torch.cat([expected, foot], dim=1)  # [B, 3, 2]: tool, hand, base
        if features.dim() == 3 and features.shape[1] >= 4:  # points: of the object first, then of the arm
            confidence = features[..., 2]
            off = features[:, 1:4, :2] - expected
            weights = confidence[:, 1:4, None]
            shift = (off * weights).sum(dim=1) / (weights.sum(dim=1) + 1e-6)
            rest = off - shift[:, None]
            seen, corrected = features[:, 0, :2], features[:, 0, :2] - shift
            lying, lying_corrected = self._on_table(seen), self._on_table(corrected)
            parts += [
                confidence.clamp(min=1e-4).log(), off.flatten(1), off.norm(dim=2), shift, rest.flatten(1),
                rest.norm(dim=2), ray_of_pose - seen, lying - in_base, lying_corrected - in_base,
                (lying - in_base).norm(dim=1, keepdim=True), (lying_corrected - in_base).norm(dim=1, keepdim=True),
            ]  # fmt: skip
        else:
            parts.append(expected.flatten(1))
        return torch.cat(parts, dim=1).clamp(-50, 50)

    def _seen(self, point: Tensor) -> Tensor:
        """Project points [B, 3] m of the base frame to the plane z = 1 of the camera, [B, 2]."""
        in_camera = (point - self.place) @ self.rotation
        return in_camera[:, :2] / in_camera[:, 2:].clamp(min=0.05)

    def _on_table(self, point: Tensor) -> Tensor:
        """The place [B, 3] m in the base frame at which a point of the plane z = 1, [B, 2], lies on the table."""
        ray = functional.pad(point, (0, 1), value=1.0) @ self.rotation.T
        length = (TABLE_M - self.place[2]) / ray[:, 2:].clamp(max=-0.05)
        return self.place + ray * length


def learn_trust(
    camera: CameraContract, samples: Encoded, held_out: dict[str, Encoded], seed: int, training: TrustTraining
) -> Trust:
    """Learn the score for a finished encoder. Torch's own random state stays as it is.

    Parameters
    ----------
    camera
        The camera of the images.
    samples
        Images to learn from, clean and altered.
    held_out
        Families of images from other seeds. In each of them at most the nominal share of the images in which the object
        is seen well reaches the scores at which the controller slows and holds.
    seed, training
        Seed and length of the learning.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trust = Trust(camera, samples, training.hidden)
        _fit(trust, samples, training)
    trust.eval()
    trust.knots.copy_(torch.tensor(_knots(trust, held_out)))
    return trust


def _fit(trust: Trust, samples: Encoded, training: TrustTraining) -> None:
    with torch.no_grad():
        described = trust.describe(*samples.inputs)
    errors = torch.from_numpy(np.asarray(samples.errors, np.float32)) / ERROR_M
    sizes = errors.norm(dim=1)
    is_wrong, size = (sizes > 1).float(), torch.log(sizes + 0.03)
    optimizer = torch.optim.AdamW(trust.network.parameters(), training.learning_rate, weight_decay=3e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=training.updates)
    trust.train()
    for _ in range(training.updates):
        picks = torch.randint(0, len(described), (training.batch,))
        found = trust.judge(described[picks])
        loss = functional.binary_cross_entropy_with_logits(found[:, 0], is_wrong[picks])
        # Size and direction of the error teach more about it than the yes or no alone.
        loss = loss + 0.5 * functional.smooth_l1_loss(found[:, 1], size[picks])
        loss = loss + 0.3 * functional.smooth_l1_loss(found[:, 2:], errors[picks].clamp(-6, 6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _knots(trust: Trust, held_out: dict[str, Encoded]) -> list[float]:
    quantiles = []
    for family in held_out.values():
        odds = trust.judge(trust.describe(*family.inputs))[:, 0].numpy()
        good = odds[~family.is_wrong]
        if len(good):
            quantiles.append(np.quantile(good, [0.5, SLOW_QUANTILE, HOLD_QUANTILE]))
    usual, slow, hold = np.max(quantiles, axis=0) if quantiles else (0.0, 1.0, 2.0)
    slow = max(slow, usual + 0.1)
    return [float(usual), float(slow), float(max(hold, slow + 0.1))]
