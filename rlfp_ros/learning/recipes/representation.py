"""Combines an encoder's objectives by name: `--encoder cnn --representation supervised+depth`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rlfp_ros.learning.encoders.encoder import Encoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Batch, Objective, Sizes
from rlfp_ros.learning.recipes.frames import (
    DEPTH_CELL_PX,
    POSTURES_PER_EPISODE,
    Frames,
    FrameSource,
    discrete_actions,
)
from rlfp_ros.schema import ConfigurationError

SUPERVISED = "supervised"  # the loss of the labels, which `train_encoder` computes


def objectives_of(representation: str) -> tuple[bool, list[type[Objective]]]:
    """Parse a representation such as "supervised+depth".

    Returns
    -------
    supervised
        Whether the labels train the encoder.
    objectives
        The other objectives.

    Raises
    ------
    ConfigurationError
        If a name is not known or is given twice.
    """
    names = representation.split("+")
    for place, name in enumerate(names):
        known = name == SUPERVISED or name in OBJECTIVES
        if not known or name in names[:place]:
            fault = "twice" if known else "which is not known"
            raise ConfigurationError(
                f"--representation has {name!r} {fault}; expected one of these, or several joined with +: "
                f"{', '.join((SUPERVISED, *OBJECTIVES))}; one of your own is loaded with --plugin FILE"
            )
    return SUPERVISED in names, [OBJECTIVES[name] for name in names if name != SUPERVISED]


class Representation(nn.Module):
    """The sum of the objectives besides the labels.

    Without `supervised`, the encoder's pose head is a probe: it is trained with the labels, but their gradient does not
    reach the features.

    Raises
    ------
    ConfigurationError
        If an objective is not known or does not work with the encoder.
    """

    def __init__(self, name: str, encoder: Encoder, source: FrameSource) -> None:
        super().__init__()
        self.supervised, kinds = objectives_of(name)
        height, width = source.camera.height, source.camera.width
        sizes = Sizes(
            height=height,
            width=width,
            actions=len(discrete_actions(source.cell.action)),
            depth_cells=(height // DEPTH_CELL_PX) * (width // DEPTH_CELL_PX),
        )
        self.objectives = nn.ModuleList(kind(encoder, sizes) for kind in kinds)
        self.length = max((kind.length for kind in kinds), default=1)

    def fit(self, frames: Frames, count: int) -> None:
        """Take statistics of the first `count` images, once before the first gradient step."""
        if frames.source.sequences:
            rewards, depths = torch.from_numpy(frames.rewards[:count]), torch.from_numpy(frames.depths[:count])
            for objective in self._objectives():
                objective.fit(rewards, depths)

    def pick(self, rng: np.random.Generator, count: int, batch: int) -> np.ndarray:
        """Draw about `batch` indices of the first `count` images: sequences of `length` consecutive ones, or any."""
        if self.length == 1:
            return rng.integers(0, count, batch)
        number = batch // self.length
        first = rng.integers(0, count // POSTURES_PER_EPISODE, number) * POSTURES_PER_EPISODE
        first += rng.integers(0, POSTURES_PER_EPISODE - self.length + 1, number)
        return (first[:, None] + np.arange(self.length)).ravel()

    def loss(
        self, encoder: Encoder, frames: Frames, picks: np.ndarray, images: Tensor, seen: Tensor, features: Tensor
    ) -> Tensor:
        """Compute the objectives' sum on the images `picks`, of which the encoder made `seen` and `features`."""
        total = features.new_zeros(())
        if not self.objectives:
            return total
        rows = picks.reshape(-1, self.length)

        def of(name: str, part: np.ndarray) -> Tensor:
            return torch.from_numpy(getattr(frames, name)[part]) if frames.source.sequences else torch.empty(0)

        batch = Batch(
            images=images.unflatten(0, rows.shape),
            seen=seen,
            code=features.flatten(1),
            actions=of("actions", rows[:, 1:]),
            rewards=of("rewards", rows),
            depths=of("depths", rows),
        )
        for objective in self._objectives():
            total = total + objective.loss(encoder, batch)
        return total

    def follow(self, encoder: Encoder) -> None:
        """Update the objectives' slowly moving copies; called after each gradient step."""
        for objective in self._objectives():
            objective.follow(encoder)

    def _objectives(self) -> list[Objective]:
        return [objective for objective in self.objectives if isinstance(objective, Objective)]
