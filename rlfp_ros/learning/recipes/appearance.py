"""Changes the appearance of rendered images, so that the encoder does not memorise the textures.

A profile randomises each scene once. This module changes an image each time it is used, at a fraction of the cost of
rendering.
Foreign shapes in front (Cutout, DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552, filled), a texture laid over
everything (mixup with an unrelated image, Zhang et al. 2018, https://arxiv.org/abs/1710.09412), other hues for all
that is not red, uneven light, colour jitter and a random convolution (Lee et al. 2020,
https://arxiv.org/abs/1910.05396), a tone curve, blur, noise and JPEG. All leave every point where it is. The
textures are training's own: validation's never come in here.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlfp_ros.simulation.textures import texture_set

TEXTURES = 96
SHAPES = 3  # largest number of shapes in front of an image
SHAPE_SHARE = 0.4  # probability of each
SHAPE_PX = (2.0, 9.0)  # half extent
CLEAR_PX = 3.0  # px, smallest distance between a shape and a point on an object
REDDEST = 40.0  # counts by which a shape's red may exceed its other channels, because red is the object's colour
OVERLAY_SHARE, OVERLAY = 0.5, 0.4  # share of the images; largest weight of the texture
TURNED_SHARE = 0.6  # share of the images whose hues, except the object's red, are rotated by any angle
TINT = 0.4  # largest change of each of their channels; colours grey parts, such as most arms
UNEVEN = 0.35  # largest change of the light, on a 3 x 3 grid
CHANNEL_GAIN, CONTRAST, BRIGHTNESS, SATURATION = 0.12, 0.25, 0.25, 0.3  # largest deviation from 1
RANDOM_KERNEL = 0.08  # standard deviation of a random convolution's weights beside its middle
BLUR_SHARE, BLUR_PX = 0.5, (0.2, 0.9)  # of the images, which get no random kernel then; standard deviation
TONE = 0.5  # bend of the tone curve x + b x (1 - x)
NOISE_SHARE, NOISE = 0.7, 10.0  # share of the images; largest standard deviation, counts
NOISE_POOL = 1 << 23
JPEG_SHARE, JPEG_QUALITY = 0.4, (35, 90)  # share of the images; percent
GREY_AXIS = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])  # cross product with (1, 1, 1)


class Appearance:
    """Changes appearances by draws from a generator of its own: the same seed gives the same images."""

    def __init__(self, height: int, width: int, seed: int) -> None:
        self._rng = torch.Generator().manual_seed(seed)
        textures = torch.from_numpy(np.stack(texture_set("train", TEXTURES))).permute(0, 3, 1, 2).float()
        self._textures = functional.interpolate(textures, size=(height, width), mode="bilinear")
        self._noise = torch.randn(NOISE_POOL, generator=self._rng)
        y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
        self._y, self._x = y, x

    def seed(self, seed: int) -> None:
        """Restart the draws."""
        self._rng.manual_seed(seed)

    def __call__(self, images: Tensor, clear_of: Tensor) -> Tensor:
        """Change images uint8 [B, H, W, 3] to float [B, H, W, 3] in 0 to 255.

        Shapes avoid N points per image, `clear_of` [B, N, 2] px (x, y).
        """
        batch = images.permute(0, 3, 1, 2).float().contiguous()
        for _ in range(SHAPES):
            self._draw_shapes(batch, clear_of)
        batch = self._overlaid(batch)
        batch = self._turned(batch)
        batch *= self._light(len(batch))
        batch = self._filtered(batch)
        batch = self._toned(batch)
        size = batch[0].numel()
        starts = torch.randint(0, NOISE_POOL - size, (len(batch),), generator=self._rng).tolist()
        strength = NOISE * self._uniform(0, 1, len(batch)) * self._chosen(NOISE_SHARE, len(batch))
        for image, start, deviation in zip(batch, starts, strength.tolist(), strict=True):
            image.add_(self._noise[start : start + size].view_as(image), alpha=deviation)
        return self._compressed(batch.clamp_(0, 255).permute(0, 2, 3, 1))

    def _compressed(self, images: Tensor) -> Tensor:
        """Compress some of the images [B, H, W, 3] with JPEG, and decode them."""
        qualities = torch.randint(*JPEG_QUALITY, (len(images),), generator=self._rng).tolist()
        chosen = self._chosen(JPEG_SHARE, len(images)).tolist()
        images = images.contiguous()
        for image, quality in ((images[i], qualities[i]) for i in range(len(images)) if chosen[i]):
            encoded = cv2.imencode(".jpg", image.byte().numpy(), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            image.copy_(torch.from_numpy(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))))
        return images

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self._rng)

    def _chosen(self, share: float, count: int) -> Tensor:
        return (torch.rand(count, generator=self._rng) < share).float()

    def _draw_shapes(self, batch: Tensor, clear_of: Tensor) -> None:
        """Draw one ellipse or rectangle, plain or textured, over some of the images."""
        count, _, height, width = batch.shape
        middle = self._uniform(0, 1, count, 2) * torch.tensor([width, height])
        half = self._uniform(*SHAPE_PX, count, 2)
        beside = (middle[:, None] - clear_of).abs() - half.amax(dim=1)[:, None, None]
        clear = (beside.amax(dim=2) > CLEAR_PX).all(dim=1)
        there = torch.nonzero(clear & (self._chosen(SHAPE_SHARE, count) > 0)).flatten()
        angle, box = self._uniform(0, np.pi, count)[there], self._chosen(0.5, count)[there, None, None] > 0
        colour = self._uniform(0, 255, count, 3)[there]
        colour[:, 0] = colour[:, 0].minimum(colour[:, 1:].amax(dim=1) + REDDEST)
        textured = (self._uniform(0, 1, count) * self._chosen(0.5, count))[there, None, None, None]
        texture = self._textures[torch.randint(0, TEXTURES, (count,), generator=self._rng)[there]]
        x, y = self._x - middle[there, :1, None], self._y - middle[there, 1:, None]
        cosine, sine = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
        a = ((cosine * x + sine * y) / half[there, :1, None]).abs()
        b = ((cosine * y - sine * x) / half[there, 1:, None]).abs()
        inside = (torch.where(box, torch.maximum(a, b), a.square() + b.square()) < 1)[:, None]
        batch[there] = torch.where(inside, torch.lerp(colour[:, :, None, None], texture, textured), batch[there])

    def _overlaid(self, batch: Tensor) -> Tensor:
        there = torch.nonzero(self._chosen(OVERLAY_SHARE, len(batch))).flatten()
        texture = self._textures[torch.randint(0, TEXTURES, (len(there),), generator=self._rng)]
        weight = self._uniform(0, OVERLAY, len(there), 1, 1, 1)
        batch[there] = torch.lerp(batch[there], texture, weight)
        return batch

    def _turned(self, batch: Tensor) -> Tensor:
        """Rotate hues about the grey axis. Red does not change, and no other hue becomes as red."""
        there = torch.nonzero(self._chosen(TURNED_SHARE, len(batch))).flatten()
        angle = self._uniform(-np.pi, np.pi, len(there))
        cosine, sine = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
        turn = cosine * torch.eye(3) + (1 - cosine) / 3 + sine / 3**0.5 * GREY_AXIS
        turn = self._uniform(1 - TINT, 1 + TINT, len(there), 3, 1) * turn
        some = batch[there]
        turned = (turn @ some.flatten(2)).view_as(some)
        turned[:, 0] = turned[:, 0].minimum(turned[:, 1:].amax(dim=1) + REDDEST)
        red = ((some[:, :1] - some[:, 1:].amax(dim=1, keepdim=True)) / (0.15 * some[:, :1] + 2)).clamp(0, 1)
        batch[there] = torch.lerp(turned, some, red)
        return batch

    def _light(self, count: int) -> Tensor:
        """Draw a gain [B, 1, H, W] that varies over the image."""
        coarse = self._uniform(1 - UNEVEN, 1 + UNEVEN, count, 1, 3, 3)
        return functional.interpolate(coarse, size=self._x.shape, mode="bilinear", align_corners=True)

    def _filtered(self, batch: Tensor) -> Tensor:
        """Mix colours and filter the neighbourhood, in one convolution per image."""
        count, _, height, width = batch.shape
        kernel = RANDOM_KERNEL * torch.randn(count, 3, 3, generator=self._rng)
        kernel[:, 1, 1] += 1
        kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True).clamp(min=0.3)
        side = torch.exp(-0.5 / self._uniform(*BLUR_PX, count).square())
        row = torch.stack([side, torch.ones(count), side], dim=1) / (1 + 2 * side[:, None])
        blurred = self._chosen(BLUR_SHARE, count)[:, None, None] > 0
        kernel = torch.where(blurred, row[:, :, None] * row[:, None, :], kernel)
        saturation = self._uniform(1 - SATURATION, 1 + SATURATION, count, 1, 1)
        contrast = self._uniform(1 - CONTRAST, 1 + CONTRAST, count, 1, 1)
        gain = contrast * self._uniform(1 - CHANNEL_GAIN, 1 + CHANNEL_GAIN, count, 3, 1)
        mixing = gain * (saturation * torch.eye(3) + (1 - saturation) / 3)  # [B, out, in]
        weights = mixing[:, :, :, None, None] * kernel[:, None, None]
        level = batch.mean(dim=(1, 2, 3))
        brightness = self._uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS, count)
        bias = (level * (brightness - contrast[:, 0, 0]))[:, None].expand(count, 3)
        padded = functional.pad(batch.reshape(1, 3 * count, height, width), (1, 1, 1, 1), mode="replicate")
        filtered = functional.conv2d(padded, weights.flatten(0, 1), bias.flatten(), groups=count)
        return filtered.view(count, 3, height, width)

    def _toned(self, batch: Tensor) -> Tensor:
        bend = self._uniform(-TONE, TONE, len(batch), 1, 1, 1)
        batch.clamp_(0, 255)
        return batch * (1 + bend - batch * (bend / 255))
