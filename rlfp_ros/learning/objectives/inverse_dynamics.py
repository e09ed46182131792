"""Inverse dynamics (Agrawal et al. 2016, https://arxiv.org/abs/1606.07419; Pathak et al. 2017,
https://arxiv.org/abs/1705.05363): predicts the action between two consecutive images from their features. The features
then describe what the arm can change."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes, two_layers


@OBJECTIVES.register("inverse_dynamics")
class InverseDynamics(Objective):
    """Cross-entropy over the discrete actions."""

    length = 2
    sequences = True

    def __init__(self, encoder: Encoder, sizes: Sizes) -> None:
        super().__init__(encoder, sizes)
        self.network = two_layers(2 * encoder.code_size, sizes.actions)

    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        before, after = batch.codes[:, :-1].flatten(0, 1), batch.codes[:, 1:].flatten(0, 1)
        return functional.cross_entropy(self.network(torch.cat([before, after], dim=-1)), batch.actions.flatten())
