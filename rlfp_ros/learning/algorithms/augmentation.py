"""Image augmentations, and the two ways in which a loss uses them.

Every augmentation takes images [B, H, W, 3 stack] in counts, 0 to 255, uint8 or float, and returns float32 of the same
shape. All frames of a stack are changed equally, each image of a batch differently. They use torch's generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.distributions import Independent, kl_divergence
from torch.nn import functional

from rlfp_ros.learning.algorithms.networks import TensorObservation

Augmentation = Callable[[Tensor], Tensor]

SHIFT = 4 / 84  # share of the image's side: DrQ's 4 pixels of 84
CROP = 84 / 100  # share of the image's side: RAD's 84 of 100
BRIGHTNESS, CONTRAST, SATURATION = 0.4, 0.4, 0.4  # half-widths of factors about 1
HUE = 0.5  # rad, half-width of the turn of the hue
NOISE = 10.0  # counts, standard deviation
CUTOUT = (0.1, 0.3)  # shares of the image's side, smallest and largest
CLEAN = 0.1  # share of images that random convolution leaves unchanged
# NTSC's luminance and two colour axes; turning the latter turns the hue.
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def shifted(images: Tensor, most: int) -> Tensor:
    """Move each image [B, H, W, C] by up to `most` whole pixels each way, its border repeated."""
    batch, height, width, _ = images.shape
    dy, dx = torch.randint(-most, most + 1, (2, batch, 1)).unbind()
    rows = (torch.arange(height) + dy).clamp(0, height - 1)
    columns = (torch.arange(width) + dx).clamp(0, width - 1)
    return images[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_shift(images: Tensor) -> Tensor:
    """Move by whole pixels, edges repeated (DrQ: Yarats et al. 2021, https://arxiv.org/abs/2004.13649)."""
    return shifted(images, max(1, round(SHIFT * images.shape[1]))).float()


def random_crop(images: Tensor) -> Tensor:
    """Cut a random window and enlarge it to the full size (RAD: Laskin et al. 2020, https://arxiv.org/abs/2004.14990)."""
    batch, height, width, _ = images.shape
    margin = (1 - CROP) * torch.rand(2, batch, 1, 1)
    y = torch.linspace(-1, 1, height)[None, :, None]
    x = torch.linspace(-1, 1, width)[None, None, :]
    # The source of each pixel, in grid_sample's coordinates: -1 to 1 over the image.
    rows, columns = CROP * (y + 1) - 1 + 2 * margin[0], CROP * (x + 1) - 1 + 2 * margin[1]
    grid = torch.stack([columns.expand(batch, height, width), rows.expand(batch, height, width)], dim=-1)
    cropped = functional.grid_sample(images.permute(0, 3, 1, 2).float(), grid, align_corners=True)
    return cropped.permute(0, 2, 3, 1)


def colour_jitter(images: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order (RAD; DrAC: Raileanu et al. 2021)."""
    frames = _frames(images)

    def factor(half_width: float) -> Tensor:
        return 1 + half_width * (2 * torch.rand(len(images), 1, 1, 1, 1) - 1)

    frames = frames * factor(BRIGHTNESS)
    middle = frames.mean(dim=(1, 2, 4), keepdim=True)
    frames = middle + (frames - middle) * factor(CONTRAST)
    grey = (frames @ YIQ[0])[..., None]
    frames = grey + (frames - grey) * factor(SATURATION)
    angle = HUE * (2 * torch.rand(len(images)) - 1)
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    turn = torch.stack([one, zero, zero, zero, angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos()], dim=-1)
    mixing = torch.linalg.inv(YIQ) @ turn.reshape(-1, 3, 3) @ YIQ  # [B, 3, 3]
    return torch.einsum("bij,bhwsj->bhwsi", mixing, frames).clamp(0, 255).reshape(images.shape)


def gaussian_noise(images: Tensor) -> Tensor:
    """Add independent noise to every pixel, channel and frame."""
    return (images.float() + NOISE * torch.randn(images.shape)).clamp(0, 255)


def cutout(images: Tensor) -> Tensor:
    """Fill a rectangle with a random colour (DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552; RAD)."""
    batch, height, width, _ = images.shape
    low, high = CUTOUT
    size = low + (high - low) * torch.rand(2, batch, 1)
    start = (1 - size) * torch.rand(2, batch, 1)
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    inside_y, inside_x = ((y >= start[0]) & (y < start[0] + size[0])), ((x >= start[1]) & (x < start[1] + size[1]))
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[..., None, None]
    colour = 255 * torch.rand(batch, 1, 1, 1, 3)
    return torch.where(inside, colour, _frames(images)).reshape(images.shape)


def random_convolution(images: Tensor) -> Tensor:
    """Convolve the colours with random 3 x 3 kernels, except in one image of ten.

    Network Randomization, Lee et al. 2020, https://arxiv.org/abs/1910.05396; squashed back to counts as in RAD.
    """
    batch, height, width, channels = images.shape
    stack = channels // 3
    # Glorot's normal distribution for 3 inputs and 3 outputs of 9 weights each.
    weights = torch.randn(batch, 1, 3, 3, 3, 3) * math.sqrt(2 / (9 * (3 + 3)))
    kernels = weights.expand(batch, stack, 3, 3, 3, 3).reshape(-1, 3, 3, 3)  # the same for all frames of a stack
    pixels = images.permute(0, 3, 1, 2).float().reshape(1, batch * channels, height, width) / 255
    padded = functional.pad(pixels, (1, 1, 1, 1), mode="replicate")
    mixed = 255 * torch.sigmoid(functional.conv2d(padded, kernels, groups=batch * stack))
    clean = (torch.rand(batch) < CLEAN)[:, None, None, None]
    return torch.where(clean, images.float(), mixed.reshape(batch, channels, height, width).permute(0, 2, 3, 1))


AUGMENTATIONS: dict[str, Augmentation] = {
    "shift": random_shift,
    "crop": random_crop,
    "jitter": colour_jitter,
    "noise": gaussian_noise,
    "cutout": cutout,
    "convolution": random_convolution,
}


def _parts(names: str) -> list[str]:
    return [] if names == "none" else names.split("+")


def _known(names: str) -> str:
    for name in _parts(names):
        if name not in AUGMENTATIONS:
            raise ValueError(
                f"should be none or one of: {', '.join(AUGMENTATIONS)}, or several joined by +, not {name!r}"
            )
    return names


AugmentationName = Annotated[str, AfterValidator(_known)]  # for settings


def augmentation(names: str) -> Augmentation:
    """Return the augmentation of this name. Names joined by "+" are applied from left to right; "none" is none."""
    parts = _parts(_known(names))

    def apply(images: Tensor) -> Tensor:
        for name in parts:
            images = AUGMENTATIONS[name](images)
        return images

    return apply


def _frames(images: Tensor) -> Tensor:
    return images.float().reshape(*images.shape[:3], -1, 3)


def together(images: Tensor, augment: Augmentation) -> Tensor:
    """Augment sequences of images [N, L, H, W, C], all images of a sequence equally."""
    side_by_side = images.permute(0, 2, 3, 1, 4)  # [N, H, W, L, C]
    changed = augment(side_by_side.flatten(3))
    return changed.unflatten(3, side_by_side.shape[3:]).permute(0, 3, 1, 2, 4)


# --- in the loss -----------------------------------------------------------------------------------------------------


def augmented(observation: TensorObservation, augment: Augmentation, copies: int = 1) -> TensorObservation:
    """Repeat a batch `copies` times, [copies B, ...], with other augmentations of the images in each copy."""
    repeated = {name: value.repeat(copies, *[1] * (value.dim() - 1)) for name, value in observation.items()}
    if "image" in repeated:
        repeated["image"] = augment(repeated["image"])
    return repeated


def averaged(values: Tensor, copies: int) -> Tensor:
    """Average `values` [copies B] over the copies of a batch, [B] (DrQ: Yarats et al. 2021, equation 2)."""
    return values.reshape(copies, -1).mean(dim=0)


def drac_regularisation(
    policy: Independent, augmented_policy: Independent, value: Tensor, augmented_value: Tensor
) -> Tensor:
    """G_pi + G_V of DrAC (Raileanu et al. 2021, https://arxiv.org/abs/2006.12862, equations 2 to 4).

    It measures how much policy and value [B] change with the augmentation. Those of the clean images are the target,
    without gradient.
    """
    base = policy.base_dist
    target = Independent(type(base)(base.loc.detach(), base.scale.detach()), 1)
    moved = kl_divergence(target, augmented_policy).mean()
    return moved + (value.detach() - augmented_value).square().mean()
