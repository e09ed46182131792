"""CURL (Laskin et al. 2020, https://arxiv.org/abs/2004.04136): the features of two random crops of an image should be
similar, and different from those of the batch's other images.

Queries come from the encoder, keys from a momentum encoder that follows it slowly (He et al. 2020, MoCo,
https://arxiv.org/abs/1911.05722); similarity is bilinear, q^T W k, of features brought to one scale as the paper's
encoder ends; the loss is InfoNCE (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748). Crops are taken from the
padded image, so that their size stays the encoder's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.algorithms.augmentation import shifted
from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes, follow_slowly


@dataclass(frozen=True)
class CurlSettings:
    """Hyperparameters."""

    momentum: float = 0.95  # of the key encoder, per gradient step
    padding: int = 6  # px, largest shift of a crop in each direction


@OBJECTIVES.register("curl")
class Curl(Objective):
    """InfoNCE between crops."""

    def __init__(self, encoder: Encoder, sizes: Sizes, settings: CurlSettings | None = None) -> None:
        super().__init__(encoder, sizes)
        self.settings = settings or CurlSettings()
        self.momentum_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.similarity = nn.Parameter(torch.rand(encoder.code_size, encoder.code_size))

    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        images = batch.images.flatten(0, 1)
        query = self._normalised(encoder(shifted(images, self.settings.padding)))
        with torch.no_grad():
            key = self._normalised(self.momentum_encoder(shifted(images, self.settings.padding)))
        return contrast(query @ self.similarity @ key.T)

    @staticmethod
    def _normalised(described: tuple[Tensor, ...]) -> Tensor:
        code = described[0].flatten(1)
        return functional.layer_norm(code, code.shape[1:])

    def follow(self, encoder: Encoder) -> None:
        follow_slowly(self.momentum_encoder, encoder, 1 - self.settings.momentum)


def contrast(logits: Tensor) -> Tensor:
    """InfoNCE of similarities [B, B] whose diagonal holds the pairs."""
    return functional.cross_entropy(logits, torch.arange(len(logits)))
