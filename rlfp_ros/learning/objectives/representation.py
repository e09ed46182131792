"""What an encoder is made of and what it learns from, by name: `--encoder cnn --representation supervised+depth`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rlfp_ros.contract import CameraContract
from rlfp_ros.learning.encoders.cnn import CnnEncoder, CnnSettings
from rlfp_ros.learning.encoders.spatial import Encoder, EncoderSettings
from rlfp_ros.learning.encoders.vit import VitEncoder, VitSettings
from rlfp_ros.learning.objectives.autoencoder import Autoencoder
from rlfp_ros.learning.objectives.curl import Curl
from rlfp_ros.learning.objectives.deep_spatial_autoencoder import DeepSpatialAutoencoder
from rlfp_ros.learning.objectives.depth_prediction import DepthPrediction
from rlfp_ros.learning.objectives.inverse_dynamics import InverseDynamics
from rlfp_ros.learning.objectives.objective import AnyEncoder, Batch, Objective, Sizes
from rlfp_ros.learning.objectives.pixel_control import PixelControl
from rlfp_ros.learning.objectives.reward_prediction import RewardPrediction
from rlfp_ros.learning.objectives.variational_autoencoder import L1VariationalAutoencoder, VariationalAutoencoder
from rlfp_ros.learning.recipes.frames import POSTURES_PER_EPISODE, Frames, FrameSource, discrete_actions
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.tasks.task import TASKS

AnyEncoderSettings = EncoderSettings | CnnSettings | VitSettings
ENCODERS: dict[str, type[EncoderSettings] | type[CnnSettings] | type[VitSettings]] = {
    "spatial": EncoderSettings, "cnn": CnnSettings, "vit": VitSettings
}  # fmt: skip
SUPERVISED = "supervised"  # the labels' own loss, in `train_encoder`
OBJECTIVES: dict[str, type[Objective]] = {
    "autoencoder": Autoencoder,
    "vae": VariationalAutoencoder,
    "vae_l1": L1VariationalAutoencoder,
    "dsae": DeepSpatialAutoencoder,
    "curl": Curl,
    "pixel_control": PixelControl,
    "reward_prediction": RewardPrediction,
    "depth": DepthPrediction,
    "inverse_dynamics": InverseDynamics,
}


def encoder_settings(name: str) -> AnyEncoderSettings:
    """The settings of one of `ENCODERS`. Raises ConfigurationError."""
    if name not in ENCODERS:
        raise ConfigurationError(f"--encoder is {name!r}, expected one of: {', '.join(ENCODERS)}")
    return ENCODERS[name]()


def make_encoder(camera: CameraContract, settings: AnyEncoderSettings) -> AnyEncoder:
    """The network that these settings are of."""
    if isinstance(settings, CnnSettings):
        return CnnEncoder(camera, settings)
    if isinstance(settings, VitSettings):
        return VitEncoder(camera, settings)
    return Encoder(camera, settings)


def objectives_of(representation: str) -> tuple[bool, list[type[Objective]]]:
    """Whether `"supervised+depth"` is supervised, and its other objectives. Raises ConfigurationError."""
    names = representation.split("+")
    known = (SUPERVISED, *OBJECTIVES)
    for place, name in enumerate(names):
        if name not in known or name in names[:place]:
            fault = "twice" if name in known else "which is not known"
            raise ConfigurationError(
                f"--representation has {name!r} {fault}; expected one of these, or several joined with +: "
                f"{', '.join(known)}"
            )
    return SUPERVISED in names, [OBJECTIVES[name] for name in names if name != SUPERVISED]


def check_representation(name: str, settings: AnyEncoderSettings, source: FrameSource) -> None:
    """Raises ConfigurationError where an encoder of these settings cannot learn that."""
    Representation(name, make_encoder(source.camera, settings), source)


class Representation(nn.Module):
    """The objectives beside the labels', added up. Without `supervised`, the encoder's pose head is a probe: it learns
    from the labels what the features hold, and they do not learn from it."""

    def __init__(self, name: str, encoder: AnyEncoder, source: FrameSource) -> None:
        super().__init__()
        self.supervised, kinds = objectives_of(name)
        actions = discrete_actions(TASKS[source.task].action)
        sizes = Sizes(source.camera.height, source.camera.width, len(actions))
        self.objectives = nn.ModuleList(kind(encoder, sizes) for kind in kinds)
        self.length = max((kind.length for kind in kinds), default=1)

    def fit(self, frames: Frames, count: int) -> None:
        """Take statistics from the first `count` pictures; once, before the first step."""
        if frames.source.sequences:
            rewards, depths = torch.from_numpy(frames.rewards[:count]), torch.from_numpy(frames.depths[:count])
            for objective in self.objectives:
                objective.fit(rewards, depths)  # type: ignore[operator]

    def pick(self, rng: np.random.Generator, count: int, batch: int) -> np.ndarray:
        """Indices of about `batch` of the first `count` pictures: consecutive ones of `length`, or any."""
        if self.length == 1:
            return rng.integers(0, count, batch)
        number = batch // self.length
        first = rng.integers(0, count // POSTURES_PER_EPISODE, number) * POSTURES_PER_EPISODE
        first += rng.integers(0, POSTURES_PER_EPISODE - self.length + 1, number)
        return (first[:, None] + np.arange(self.length)).ravel()

    def loss(
        self, encoder: AnyEncoder, frames: Frames, picks: np.ndarray, images: Tensor, seen: Tensor, features: Tensor
    ) -> Tensor:
        """The objectives' sum on the pictures `picks`, of which the encoder made `seen` and `features`."""
        total = features.new_zeros(())
        if not self.objectives:
            return total
        rows = picks.reshape(-1, self.length)

        def of(name: str, part: np.ndarray) -> Tensor:
            return torch.from_numpy(getattr(frames, name)[part]) if frames.source.sequences else torch.empty(0)

        batch = Batch(
            images.unflatten(0, rows.shape), seen, features.flatten(1),
            of("actions", rows[:, 1:]), of("rewards", rows), of("depths", rows),
        )  # fmt: skip
        for objective in self.objectives:
            total = total + objective.loss(encoder, batch)  # type: ignore[operator]
        return total

    def follow(self, encoder: AnyEncoder) -> None:
        """Called after each gradient step."""
        for objective in self.objectives:
            objective.follow(encoder)  # type: ignore[operator]
