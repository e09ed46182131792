"""The spatial encoder: a small convolutional network whose features are points in the image.

A spatial softmax (Finn et al. 2016, Deep Spatial Autoencoders, https://arxiv.org/abs/1509.06113; Levine et al. 2016,
https://arxiv.org/abs/1504.00702) turns each heat map into one point, so that features are few coordinates that can be
drawn. Unlike in these papers, the point is the mean around the strongest place of the map, not the mean of the whole
map. The first points are supervised with the task's keypoints. A pose head reads the object's position and its
covariance off all points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.contract import CameraContract
from rlfp_ros.learning.encoders.encoder import ENCODERS, EncoderSettings, PointEncoder
from rlfp_ros.learning.encoders.pose_head import pose_layers, position_and_factor, workspace_centre

# A point is the mean over the cells around the likeliest place, because the mean over all cells would lie between two
# competing places. Each cell's weight is multiplied by the fourth power of the mean weight around it.
NEIGHBOURHOOD = 5  # cells, side of the square around a cell
SMALLEST_WEIGHT = 1e-7  # of a cell; its fifth power is a normal float32, and arithmetic on denormal numbers is slow


@dataclass(frozen=True)
class SpatialSettings(EncoderSettings):
    """Sizes of the network."""

    points: int = 16  # feature points
    channels: int = 32  # of the convolutions
    # Dilations of the residual blocks after the strided convolutions. A point on the arm is recognised by its
    # surroundings: the middle block sees most of the image, the others refine.
    dilations: tuple[int, ...] = (1, 2, 4, 8, 4, 2, 1)
    hidden: int = 128  # units of the pose head


def convolution_block(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> tuple[nn.Module, ...]:
    """Make a convolution, batch normalisation (folded into the convolution in deployment) and rectifier."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


class ResidualBlock(nn.Sequential):
    """A residual block (He et al. 2016, https://arxiv.org/abs/1512.03385)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Add the block's output to its input [B, C, rows, columns]."""
        added: Tensor = super().forward(maps)
        return maps + added


@ENCODERS.register("spatial")
class SpatialEncoder(PointEncoder):
    """An encoder of feature points, by a spatial softmax."""

    settings_type = SpatialSettings
    settings: SpatialSettings
    grid: Tensor
    origin: Tensor
    mean: Tensor

    def __init__(self, camera: CameraContract, settings: SpatialSettings | None = None) -> None:
        settings = settings or SpatialSettings()
        super().__init__(camera, settings)
        self.points = settings.points
        channels = settings.channels
        self.convolutions = nn.Sequential(
            *convolution_block(3, channels // 2, 5, stride=2, padding=2),
            *convolution_block(channels // 2, channels, 3, stride=2, padding=1),
            *(
                ResidualBlock(*convolution_block(channels, channels, 3, padding=dilation, dilation=dilation))
                for dilation in settings.dilations
            ),
        )
        # Four cells of heat per cell of the feature maps: finer points at the cost of coarse convolutions.
        self.heat = nn.Sequential(nn.Conv2d(channels, 4 * settings.points, 1), nn.PixelShuffle(2))
        self.log_sharpness = nn.Parameter(torch.zeros(settings.points))
        self.pose_head = pose_layers(3 * settings.points, settings.hidden)
        # The place of each cell of the heat maps on the plane z = 1 of the optical frame.
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

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute feature maps [B, C, rows, columns] and log-probabilities [B, K, cells] of each point's place."""
        pixels = images.permute(0, 3, 1, 2).float() * (1 / 127.5) - 1
        maps = self.convolutions(pixels)
        heat = self.heat(maps).flatten(2)
        return maps, functional.log_softmax(heat * self.log_sharpness.exp()[:, None], dim=-1)

    def describe(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute what `forward` returns from maps and log-probabilities; the embedding is [B, C + K]."""
        maps, log_weights = first, second
        weights = log_weights.exp().clamp(min=SMALLEST_WEIGHT)
        # Two convolutions along rows and columns take half the time of pooling, forward and backward.
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
        """Compute weights [B, P, cells] on the four cells around each point [B, P, 2] whose mean is that point.

        Points outside the image count at its edge.
        """
        rows, columns = self.cells
        size = self.grid.new_tensor([columns - 1, rows - 1])
        place = ((points - self.grid[0]) / (self.grid[-1] - self.grid[0]) * size).clamp(min=0).minimum(size)
        along_x = (1 - (place[..., :1] - torch.arange(columns)).abs()).clamp(min=0)
        along_y = (1 - (place[..., 1:] - torch.arange(rows)).abs()).clamp(min=0)
        return (along_y[..., :, None] * along_x[..., None, :]).flatten(2)

    def pose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Read position [B, 3] m in the optical frame and Cholesky factor [B, 3, 3] m off features [B, K, 3]."""
        return position_and_factor(self.pose_head(features.flatten(1)), self.origin)
