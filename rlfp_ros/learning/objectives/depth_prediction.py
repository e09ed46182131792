"""Depth prediction (Mirowski et al. 2017, https://arxiv.org/abs/1611.03673): from the features of a colour image, a
coarse depth map, as a choice between eight bands of depth for each cell, which the paper found better than regression.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes, two_layers

BANDS = 8


@OBJECTIVES.register("depth")
class DepthPrediction(Objective):
    """Cross-entropy over the bands, whose edges are quantiles of the first images' depths."""

    sequences = True
    edges: Tensor

    def __init__(self, encoder: Encoder, sizes: Sizes) -> None:
        super().__init__(encoder, sizes)
        self.network = nn.Sequential(
            two_layers(encoder.code_size, BANDS * sizes.depth_cells), nn.Unflatten(1, (BANDS, sizes.depth_cells))
        )
        self.register_buffer("edges", torch.zeros(BANDS - 1))

    def fit(self, rewards: Tensor, depths: Tensor) -> None:
        self.edges.copy_(torch.from_numpy(np.quantile(depths.numpy(), np.arange(1, BANDS) / BANDS)))

    def bands(self, depths: Tensor) -> Tensor:
        """Return the band of each depth, int64 of the same shape; 0 is nearest."""
        return torch.bucketize(depths.contiguous(), self.edges)

    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.network(batch.code), self.bands(batch.depths.flatten(0, 1).flatten(1)))
