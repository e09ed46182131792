"""Reward prediction (Jaderberg et al. 2017, UNREAL, https://arxiv.org/abs/1611.05397): predicts the class of the next
image's reward from the features of the images before it.

The paper predicts one of three classes (negative, none, positive) from three images, and draws rewarded and
unrewarded ones equally often. Rewards here are dense and seldom zero: the classes are the lowest, middle and highest
third of all rewards, which are drawn equally often by themselves.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes, two_layers

CLASSES = 3


@OBJECTIVES.register("reward_prediction")
class RewardPrediction(Objective):
    """Cross-entropy over the classes of the last image's reward, from the images before it."""

    length = 3
    sequences = True
    edges: Tensor

    def __init__(self, encoder: Encoder, sizes: Sizes) -> None:
        super().__init__(encoder, sizes)
        self.network = two_layers((self.length - 1) * encoder.code_size, CLASSES)
        self.register_buffer("edges", torch.zeros(CLASSES - 1))

    def fit(self, rewards: Tensor, depths: Tensor) -> None:
        self.edges.copy_(torch.from_numpy(np.quantile(rewards.numpy(), np.arange(1, CLASSES) / CLASSES)))

    def loss(self, encoder: Encoder, batch: Batch) -> Tensor:
        last = self.length - 1
        logits = self.network(batch.codes[:, :last].flatten(1))
        return functional.cross_entropy(logits, torch.bucketize(batch.rewards[:, last].contiguous(), self.edges))
