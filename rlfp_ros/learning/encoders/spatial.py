"""The encoder: a small convolutional network whose features are points in the image.

A spatial softmax (Finn et al. 2016, Deep Spatial Autoencoders, https://arxiv.org/abs/1509.06113; Levine et al. 2016,
https://arxiv.org/abs/1504.00702) turns each heat map into the point where it is, so that features are coordinates, few,
and can be drawn. Unlike theirs, the point is the mean around the map's strongest place, not that of the whole map. The
first ones are supervised with the task's keypoints; a pose head reads the object's position, with its covariance, from
all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.contract import CameraContract

if TYPE_CHECKING:
    from rlfp_ros.learning.encoders.novelty import Novelty
    from rlfp_ros.learning.objectives.objective import AnyEncoder

POSITION_SCALE = 0.1  # m, the pose head works in units of this
SMALLEST_SIGMA = 0.001  # m, floor of the predicted standard deviation
INSIDE_90 = 6.251  # chi-square with 3 degrees of freedom: squared distance at the edge of a nominal 90 % region
# A point is the mean over the cells around the likeliest place, not over all of them: where two places compete, the
# plain mean lies between them. Each cell's weight counts times the fourth power of the mean weight around it.
NEIGHBOURHOOD = 5  # cells each way
SMALLEST_WEIGHT = 1e-7  # of a cell: its fifth power is still a normal float32, and arithmetic on others is slow
UNKNOWN_ROTATION = 3.29  # rad^2, variance of an angle uniform in [-pi, pi]: the head gives no orientation


@dataclass(frozen=True)
class EncoderSettings:
    """Sizes of the network."""

    points: int = 16  # feature points
    channels: int = 32  # of the convolutions
    # Of the 3 x 3 convolutions behind those with strides, a residual block each: a point on the arm is found by what is
    # around it, so the middle one sees most of the picture, and the others refine.
    dilations: tuple[int, ...] = (1, 2, 4, 8, 4, 2, 1)
    hidden: int = 128  # of the pose head


def convolution_block(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> tuple[nn.Module, ...]:
    """Convolution, batch normalisation (folded into the convolution in deployment) and rectifier."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


class Residual(nn.Sequential):
    """A block that adds to what it is given (He et al. 2016, https://arxiv.org/abs/1512.03385)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, C, rows, columns] to others of the same shape."""
        added: Tensor = super().forward(maps)
        return maps + added


class Encoder(nn.Module):
    """uint8 images [B, H, W, 3] to feature points, object position and an embedding for the domain-shift score.

    Everything from pixels on is inside, normalisation included, so that a camera's image is the only input.
    """

    grid: Tensor
    origin: Tensor
    mean: Tensor
    code_size: int  # F, values in the features of a picture

    def __init__(self, camera: CameraContract, settings: EncoderSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or EncoderSettings()
        channels = settings.channels
        self.convolutions = nn.Sequential(
            *convolution_block(3, channels // 2, 5, stride=2, padding=2),
            *convolution_block(channels // 2, channels, 3, stride=2, padding=1),
            *(
                Residual(*convolution_block(channels, channels, 3, padding=dilation, dilation=dilation))
                for dilation in settings.dilations
            ),
        )
        # Four cells of heat for every cell of the feature maps: finer points for the price of coarse convolutions.
        self.heat = nn.Sequential(nn.Conv2d(channels, 4 * settings.points, 1), nn.PixelShuffle(2))
        self.log_sharpness = nn.Parameter(torch.zeros(settings.points))
        self.pose_head = nn.Sequential(
            nn.Linear(3 * settings.points, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, 9)
        )
        # Where each cell of the heat maps lies on the plane z = 1 of the optical frame.
        intrinsics = camera.intrinsics
        with torch.no_grad():
            rows, columns = self.heat(self.convolutions(torch.zeros(2, 3, camera.height, camera.width))).shape[2:]
        self.cells = (rows, columns)
        v = torch.arange(rows) * (camera.height / rows) + (camera.height / rows - 1) / 2
        u = torch.arange(columns) * (camera.width / columns) + (camera.width / columns - 1) / 2
        y, x = torch.meshgrid((v - intrinsics.cy) / intrinsics.fy, (u - intrinsics.cx) / intrinsics.fx, indexing="ij")
        self.register_buffer("grid", torch.stack([x.reshape(-1), y.reshape(-1)], dim=-1).float())
        self.register_buffer("origin", workspace_centre(camera))
        mean = torch.full((settings.points, 1, 1, NEIGHBOURHOOD), 1 / NEIGHBOURHOOD)
        self.register_buffer("mean", mean, persistent=False)
        self.code_size = 3 * settings.points

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features [B, K, 3] (x, y on the plane z = 1, confidence), position [B, 3] m in the optical frame,
        Cholesky factor [B, 3, 3] m of its covariance, embedding [B, C + K]."""
        return self.describe(*self.see(images))

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps [B, C, rows, columns] and log-probabilities [B, K, cells] of where each point is."""
        pixels = images.permute(0, 3, 1, 2).float() * (1 / 127.5) - 1
        maps = self.convolutions(pixels)
        heat = self.heat(maps).flatten(2)
        return maps, functional.log_softmax(heat * self.log_sharpness.exp()[:, None], dim=-1)

    def describe(self, maps: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `forward`, from what `see` gives."""
        weights = log_weights.exp().clamp(min=SMALLEST_WEIGHT)
        # Two convolutions along the rows and the columns: half the time of pooling, there and back.
        groups, reach = weights.shape[1], NEIGHBOURHOOD // 2
        around = functional.conv2d(weights.unflatten(-1, self.cells), self.mean, padding=(0, reach), groups=groups)
        around = functional.conv2d(around, self.mean.mT, padding=(reach, 0), groups=groups)
        sums = (weights * around.flatten(2).square().square()) @ functional.pad(self.grid, (0, 1), value=1.0)
        points = sums[..., :2] / sums[..., 2:]  # [B, K, 2]
        confidence = weights.amax(dim=-1, keepdim=True)
        features = torch.cat([points, confidence], dim=-1)
        position, factor = self.pose(features)
        embedding = torch.cat([maps.mean(dim=(2, 3)), confidence.squeeze(-1)], dim=-1)
        return features, position, factor, embedding

    def cell_weights(self, points: Tensor) -> Tensor:
        """Weights [B, P, cells] on the four cells around each point [B, P, 2] whose mean is that point.

        Points outside the picture count at its edge.
        """
        rows, columns = self.cells
        size = self.grid.new_tensor([columns - 1, rows - 1])
        place = ((points - self.grid[0]) / (self.grid[-1] - self.grid[0]) * size).clamp(min=0).minimum(size)
        along_x = (1 - (place[..., :1] - torch.arange(columns)).abs()).clamp(min=0)
        along_y = (1 - (place[..., 1:] - torch.arange(rows)).abs()).clamp(min=0)
        return (along_y[..., :, None] * along_x[..., None, :]).flatten(2)

    def pose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Position [B, 3] m in the optical frame and Cholesky factor [B, 3, 3] m of features [B, K, 3]."""
        return position_and_factor(self.pose_head(features.flatten(1)), self.origin)


def workspace_centre(camera: CameraContract) -> Tensor:
    """[3] m in the optical frame: where pose heads start from."""
    centre = torch.tensor([0.45, 0.0, 0.05, 1.0], dtype=torch.float64)  # base frame
    return (torch.linalg.inv(torch.tensor(camera.T_base_camera.matrix())) @ centre)[:3].float()


def position_and_factor(head: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """A pose head's nine outputs [B, 9] as position [B, 3] m and the Cholesky factor [B, 3, 3] m of its covariance."""
    position = origin + POSITION_SCALE * head[:, :3]
    diagonal = SMALLEST_SIGMA + POSITION_SCALE * functional.softplus(head[:, 3:6])
    zero = torch.zeros_like(diagonal[:, 0])
    lower = POSITION_SCALE * 0.1 * head[:, 6:9]
    rows = [
        torch.stack([diagonal[:, 0], zero, zero], dim=-1),
        torch.stack([lower[:, 0], diagonal[:, 1], zero], dim=-1),
        torch.stack([lower[:, 1], lower[:, 2], diagonal[:, 2]], dim=-1),
    ]
    return position, torch.stack(rows, dim=1)


class ExportedEncoder(nn.Module):
    """An encoder, of points or a plain latent, with the outputs that a bundle declares.

    With `novelty`, which an encoder of points can have, the embedding is its mark.
    """

    rotation: Tensor
    rotation_covariance: Tensor

    def __init__(self, encoder: AnyEncoder, novelty: Novelty | None = None) -> None:
        super().__init__()
        self.encoder, self.novelty = encoder, novelty
        self.register_buffer("rotation", torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
        block = torch.zeros(1, 6, 6)
        block[0, 3:, 3:] = UNKNOWN_ROTATION * torch.eye(3)
        self.register_buffer("rotation_covariance", block)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """features [1, K, 3] or [1, Z], object_pose [1, 7], pose_cov [1, 6, 6], embedding [1, E] of an image
        [1, H, W, 3]."""
        seen = self.encoder.see(image)
        features, position, factor, embedding = self.encoder.describe(*seen)
        place = factor @ factor.transpose(1, 2)
        if self.novelty is not None:
            embedding = self.novelty(*seen)
            place = self.novelty.widened(place, embedding)
        covariance = functional.pad(place, (0, 3, 0, 3)) + self.rotation_covariance
        return features, torch.cat([position, self.rotation], dim=-1), covariance, embedding
