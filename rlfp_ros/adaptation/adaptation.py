"""The interface and the registry of adaptation methods: one file per method, in `methods/` or in a plugin.

A new method is one class:

    from rlfp_ros.adaptation.adaptation import ADAPTATIONS, Adaptation

    @ADAPTATIONS.register("mine")
    class Mine(Adaptation):
        def adapt(self, material, training, report):
            encoder = self.encoder(material)
            ...
            return encoder.file()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from rlfp_ros.adaptation.encoder import AdaptableEncoder, DeployedEncoder
from rlfp_ros.adaptation.material import AdaptationMaterial
from rlfp_ros.plugins import Registry

Report = Callable[[str], None]
REPORTED_UPDATES = 50  # updates between two lines
POINT_SCALE = 0.05  # on the plane z = 1: the distance at which the loss of a point becomes linear
HEAT_WEIGHT, POINT_WEIGHT = 0.1, 1.0


@dataclass(frozen=True)
class AdaptationTraining:
    """Length and data of an adaptation."""

    images: int = 1_200  # that are rendered as training renders them
    updates: int = 300
    batch: int = 16  # recorded images per update, and as many rendered ones
    learning_rate: float = 3e-4
    seed: int = 0


class Adaptation(ABC):
    """A way to adapt an encoder. The mark of novelty is fitted afterwards, whatever the method is."""

    changes_encoder = True  # whether what the encoder sees changes

    @abstractmethod
    def adapt(self, material: AdaptationMaterial, training: AdaptationTraining, report: Report) -> bytes:
        """Return the contents of the adapted `encoder.onnx`.

        Parameters
        ----------
        material
            Recorded images with labels of the arm, and rendered ones.
        training
            Length of the adaptation.
        report
            Called with lines about the progress.
        """

    def prepare(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Change the float model before it is trained; by default it stays as it is."""
        return model

    def encoder(self, material: AdaptationMaterial) -> AdaptableEncoder:
        """Return the bundle's encoder for training."""
        return AdaptableEncoder(material.file, material.camera, self.prepare)


@dataclass(frozen=True)
class AdaptationBatch:
    """One batch: images, and the features that the encoder should give for them or the points that it should see."""

    images: Tensor  # [B, H, W, 3], 0 to 255
    features: Tensor  # [B, K, 3] of the encoder before the adaptation; no rows if there are none
    log_weights: Tensor  # [B, K, cells], likewise
    points: Tensor  # [B, P, 2] of the arm; no rows if there are none
    visible: Tensor  # [B, P]


class Teacher:
    """What the encoder before the adaptation gives for rendered images: what it should still give for them.

    It keeps not only the keypoints but all points, which the policy and the head of the object's pose read.
    """

    def __init__(self, material: AdaptationMaterial) -> None:
        self._encoder = DeployedEncoder(material.file)
        self._images = material.rendered.images

    def __len__(self) -> int:
        return len(self._images)

    def batch(
        self, picks: np.ndarray, change: Callable[[np.ndarray], np.ndarray] = lambda image: image
    ) -> AdaptationBatch:
        """Return rendered images, changed, with the features that belong to the unchanged ones."""
        clean = self._images[picks]
        features, log_weights = self._encoder.heat(clean)
        images = torch.from_numpy(np.stack([change(image) for image in clean])).float()
        return AdaptationBatch(images, features, log_weights, torch.zeros(0), torch.zeros(0))


def recorded_batch(material: AdaptationMaterial, picks: np.ndarray) -> AdaptationBatch:
    """Return recorded images with the places of the arm's points."""
    recorded = material.recorded
    points, visible = (torch.from_numpy(part[picks]) for part in (recorded.labels.points, recorded.labels.visible))
    images = torch.from_numpy(recorded.images[picks]).float()
    return AdaptationBatch(images, torch.zeros(0), torch.zeros(0), points, visible)


def loss_of(encoder: AdaptableEncoder, batch: AdaptationBatch, indices: np.ndarray) -> Tensor:
    """Compute the loss of one batch: a heat map's cross-entropy has gradients everywhere, a point's is accurate."""
    features, log_weights = encoder(batch.images)
    if len(batch.features):
        heat = (batch.log_weights.exp() * (batch.log_weights - log_weights)).sum(dim=-1).mean()
        scale = features.new_tensor([POINT_SCALE, POINT_SCALE, 1.0])
        point = nn.functional.smooth_l1_loss(features / scale, batch.features / scale)
        return HEAT_WEIGHT * heat + POINT_WEIGHT * point
    mask, places = batch.visible.float(), torch.from_numpy(indices)
    cross = -(encoder.cell_weights(batch.points) * log_weights[:, places]).sum(dim=-1)
    offset = (features[:, places, :2] - batch.points) / POINT_SCALE
    point = nn.functional.smooth_l1_loss(offset, torch.zeros_like(offset), reduction="none").sum(dim=-1)
    return ((HEAT_WEIGHT * cross + POINT_WEIGHT * point) * mask).sum() / mask.sum().clamp(min=1)


def train(
    encoder: AdaptableEncoder,
    weights: list[nn.Parameter],
    batches: Callable[[np.random.Generator], list[AdaptationBatch]],
    indices: np.ndarray,
    training: AdaptationTraining,
    report: Report,
) -> None:
    """Train some weights of an encoder on the batches that each update draws.

    Parameters
    ----------
    encoder, weights
        The encoder, and those of its weights that change.
    batches
        Draws the batches of one update.
    indices
        [P], which feature points are those of the arm.
    training
        Length of the training.
    report
        Called with lines about the progress.
    """
    torch.manual_seed(training.seed)
    rng = np.random.default_rng([training.seed, 23])
    optimizer = torch.optim.Adam(weights, training.learning_rate)
    steps = max(training.updates, 2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=steps)
    for update in range(training.updates):
        loss = torch.stack([loss_of(encoder, batch, indices) for batch in batches(rng)]).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if (update + 1) % REPORTED_UPDATES == 0 or update + 1 == training.updates:
            report(f"update {update + 1} of {training.updates}, loss {loss.item():.4f}")


ADAPTATIONS: Registry[type[Adaptation]] = Registry(
    "adaptation", builtin="rlfp_ros.adaptation.methods", entry_type=Adaptation
)
