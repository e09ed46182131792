"""Tests of the image augmentations: the effect on an image, the same for a whole stack, drawn anew for each image."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch.distributions import Independent, Normal

from rlfp_ros.learning.algorithms import augmentation as module
from rlfp_ros.learning.algorithms.augmentation import (
    AUGMENTATIONS,
    augmentation,
    augmented,
    averaged,
    colour_jitter,
    cutout,
    drac_regularisation,
    gaussian_noise,
    random_convolution,
    random_crop,
    random_shift,
)
from rlfp_ros.learning.algorithms.sac import SacSettings
from rlfp_ros.schema import ConfigurationError

SIZE = 32


pytestmark = pytest.mark.usefixtures("seeded_torch")


def image_stacks(batch: int = 64, stack: int = 2) -> torch.Tensor:
    """The same frame in every place of a stack, another one in every image."""
    return torch.randint(0, 256, (batch, SIZE, SIZE, 3), dtype=torch.uint8).repeat(1, 1, 1, stack)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_every_augmentation_keeps_shape_range_and_its_input(name: str) -> None:
    images = image_stacks()
    before = images.clone()
    changed = AUGMENTATIONS[name](images)
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert torch.equal(images, before)
    assert (changed != images).any()
    torch.testing.assert_close(AUGMENTATIONS[name](images.float()).mean(), changed.mean(), rtol=0.1, atol=0)


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS) - {"noise"}))
def test_all_frames_of_a_stack_are_changed_alike_and_each_image_differently(name: str) -> None:
    changed = AUGMENTATIONS[name](image_stacks(batch=1).repeat(16, 1, 1, 1))
    torch.testing.assert_close(changed[..., :3], changed[..., 3:])
    assert len({image.sum().item() for image in changed}) > 8


def test_a_shift_moves_the_image_by_whole_pixels_and_repeats_its_edges() -> None:
    """DrQ: 4 pixels of 84 to every side, that is 2 of 32; every offset is equally likely."""
    rows = torch.arange(SIZE, dtype=torch.uint8)
    images = torch.stack(
        [rows[:, None].expand(SIZE, SIZE), rows[None].expand(SIZE, SIZE), 0 * rows[:, None] + rows], -1
    )
    changed = random_shift(images[None].repeat(2_000, 1, 1, 1))
    counts = torch.zeros(5, 5)
    for image in changed:
        dy, dx = int(image[10, 10, 0]) - 10, int(image[10, 10, 1]) - 10
        expected = images[(rows.int() + dy).clamp(0, SIZE - 1)][:, (rows.int() + dx).clamp(0, SIZE - 1)]
        assert torch.equal(image, expected.float())
        counts[dy + 2, dx + 2] += 1
    assert counts.min() > 40  # of 80 on average


def test_a_crop_is_a_window_brought_to_full_size() -> None:
    """RAD: 84 of 100. On an image whose value is the place, steps between pixels shrink by that, and no edge shows."""
    ramp = torch.linspace(0, 255, SIZE)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    images = torch.stack([y, x, x], dim=-1)
    changed = random_crop(images[None].repeat(500, 1, 1, 1))
    step = module.CROP * 255 / (SIZE - 1)
    for axis in (0, 1):
        steps = changed[..., axis].diff(dim=1 + axis)
        torch.testing.assert_close(steps, torch.full_like(steps, step), atol=1e-3, rtol=0)
    corners = changed[:, 0, 0, :2] / 255
    assert corners.min() >= 0
    assert corners.max() <= 1 - module.CROP + 1e-6
    torch.testing.assert_close(corners.mean(dim=0), torch.full((2,), (1 - module.CROP) / 2), atol=0.01, rtol=0)


def test_jitter_by_each_of_its_four_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = image_stacks(stack=1).float() / 2 + 64  # far from the ends, so that nothing is cut off

    def only(name: str, half_width: float) -> torch.Tensor:
        for part in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"):
            monkeypatch.setattr(module, part, half_width if part == name else 0.0)
        return colour_jitter(images)

    torch.testing.assert_close(only("none", 0.0), images, atol=0.1, rtol=0)
    brighter = only("BRIGHTNESS", 0.3) / images
    torch.testing.assert_close(
        brighter, brighter.mean(dim=(1, 2, 3), keepdim=True).expand_as(brighter), atol=0.01, rtol=0
    )
    assert brighter.min() < 0.85
    assert brighter.max() > 1.15
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast = (only("CONTRAST", 0.3) - middle).std(dim=(1, 2, 3)) / (images - middle).std(dim=(1, 2, 3))
    assert contrast.min() < 0.85
    assert contrast.max() > 1.15
    grey = images @ module.YIQ[0]
    for part in ("SATURATION", "HUE"):  # neither changes how bright anything is
        changed = only(part, 0.3)
        torch.testing.assert_close(changed @ module.YIQ[0], grey, atol=0.2, rtol=0)
        assert (changed - images).abs().max() > 5
    colour = (images @ module.YIQ[1:].T).norm(dim=-1)
    torch.testing.assert_close((only("HUE", 0.3) @ module.YIQ[1:].T).norm(dim=-1), colour, atol=0.2, rtol=0)


def test_noise_has_the_declared_deviation_and_differs_everywhere() -> None:
    images = torch.full((8, SIZE, SIZE, 6), 128, dtype=torch.uint8)
    noise = gaussian_noise(images) - 128
    assert noise.std().item() == pytest.approx(module.NOISE, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.2)
    assert abs(torch.corrcoef(torch.stack([noise[..., :3].flatten(), noise[..., 3:].flatten()]))[0, 1]) < 0.02


def test_cutout_paints_one_rectangle_in_one_colour_and_leaves_the_rest() -> None:
    images = image_stacks()
    changed = cutout(images)
    sides = []
    for image, before in zip(changed, images, strict=True):
        where = (image != before).any(dim=-1)
        rows, columns = where.any(dim=1).nonzero()[:, 0], where.any(dim=0).nonzero()[:, 0]
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        inside = image[top:bottom, left:right, :3].reshape(-1, 3)
        assert torch.equal(inside, inside[:1].expand_as(inside))
        outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
        outside[top:bottom, left:right] = False
        assert torch.equal(image[outside], before[outside].float())
        sides += [bottom - top, right - left]
    low, high = module.CUTOUT
    assert min(sides) >= low * SIZE - 1
    assert max(sides) <= high * SIZE + 1
    assert max(sides) - min(sides) > 3


def test_random_convolution_mixes_colours_linearly_and_leaves_one_in_ten() -> None:
    """Lee et al. 2020: each image has a kernel of its own. Below the squashing it is linear, and shifts with it."""
    images = image_stacks(batch=400, stack=1)
    changed = random_convolution(images)
    left = (changed == images).all(dim=(1, 2, 3))
    assert 0.05 < left.float().mean().item() < 0.16
    mixed = torch.logit(changed[~left].double() / 255)
    pixels = torch.nn.functional.unfold(images[~left].permute(0, 3, 1, 2).double() / 255, 3)  # [N, 27, places]
    inner = mixed[:, 1:-1, 1:-1].reshape(len(mixed), -1, 3)
    kernels = torch.linalg.lstsq(pixels.transpose(1, 2), inner).solution  # [N, 27, 3]
    torch.testing.assert_close(pixels.transpose(1, 2) @ kernels, inner, atol=1e-3, rtol=0)
    assert kernels.std().item() == pytest.approx((2 / (9 * 6)) ** 0.5, rel=0.05)  # Glorot's
    assert not torch.allclose(kernels[0], kernels[1], atol=0.01)


def test_names_are_joined_and_a_wrong_one_is_named() -> None:
    images = image_stacks(4)
    torch.manual_seed(3)
    both = augmentation("shift+noise")(images)
    torch.manual_seed(3)
    torch.testing.assert_close(both, gaussian_noise(random_shift(images)))
    assert augmentation("none")(images) is images
    assert SacSettings().changed(augmentation="shift+noise").augmentation == "shift+noise"
    expected = "augmentation is 'shift\\+blur', but it should be none or one of: shift, .*, not 'blur'"
    with pytest.raises(ConfigurationError, match=expected):
        SacSettings().changed(augmentation="shift+blur")


def test_copies_have_augmentations_of_their_own_and_are_averaged_in_place() -> None:
    observation = {"image": image_stacks(3), "vector": torch.arange(6.0).reshape(3, 2)}
    copies = augmented(observation, random_shift, 4)
    assert copies["image"].shape == (12, SIZE, SIZE, 6)
    torch.testing.assert_close(copies["vector"], observation["vector"].repeat(4, 1))
    assert not torch.equal(copies["image"][:3], copies["image"][3:6])
    values = torch.tensor([1.0, 2.0, 3.0, 5.0, 6.0, 7.0])  # of 2 copies of a batch of 3
    assert averaged(values, 2).tolist() == [3.0, 4.0, 5.0]


def test_drac_pulls_the_augmented_outputs_to_the_clean_ones_and_never_the_other_way() -> None:
    """Raileanu et al. 2021, equations 2 and 3: KL[clean | augmented] and the squared difference of values."""
    clean, moved = torch.zeros(5, 2, requires_grad=True), torch.full((5, 2), 0.3, requires_grad=True)
    value, other = torch.zeros(5, requires_grad=True), torch.full((5,), 2.0, requires_grad=True)
    std = torch.full((5, 2), 0.5)
    loss = drac_regularisation(Independent(Normal(clean, std), 1), Independent(Normal(moved, std), 1), value, other)
    # Two Gaussians of equal width, a distance d apart in each of two components: KL is 2 d^2 / (2 sigma^2).
    assert loss.item() == pytest.approx(2 * 0.3**2 / (2 * 0.5**2) + 2.0**2)
    loss.backward()
    assert clean.grad is None
    assert value.grad is None
    assert moved.grad is not None
    assert other.grad is not None
    assert (moved.grad > 0).all()
    assert (other.grad > 0).all()
